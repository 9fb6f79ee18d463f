//! A machine on which other programs want the CPUs.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

/// Threads that spin, at the priority threads have, until this value goes.
#[derive(Debug)]
pub(super) struct Busy {
    ended: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Busy {
    pub(super) fn start(threads: usize) -> io::Result<Busy> {
        let mut busy = Busy { ended: Arc::default(), threads: Vec::with_capacity(threads) };
        for _ in 0..threads {
            let ended = Arc::clone(&busy.ended);
            let spin = move || {
                let mut work = 0_u64;
                while !ended.load(Ordering::Relaxed) {
                    // Work, not a pause: a pause lets the other thread of the CPU run.
                    work = std::hint::black_box(work.wrapping_mul(5).wrapping_add(1));
                }
            };
            busy.threads.push(std::thread::Builder::new().name("raftyard-busy".to_owned()).spawn(spin)?);
        }
        Ok(busy)
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // It does nothing that could panic.
            drop(thread.join());
        }
    }
}
