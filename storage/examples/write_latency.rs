//! Prints how long a durable write of the log takes on this disk, through the same device code and the same preparation
//! of segments as a node's: `cargo run --release -p raftyard-storage --example write_latency -- DIRECTORY`.

use raftyard_raft::NodeId;
use raftyard_storage::device::{UringDisk, probe};
use raftyard_storage::io::{WalId, WriteMode};
use raftyard_storage::wal::{StoreId, Wal, WalConfig};
use std::error::Error;
use std::path::PathBuf;
use std::time::Instant;

const ROUNDS: usize = 5_000;

fn main() -> Result<(), Box<dyn Error>> {
    let parent = PathBuf::from(std::env::args().nth(1).ok_or("usage: write_latency DIRECTORY")?);
    probe()?;
    let modes = [("write with RWF_DSYNC", WriteMode::Dsync), ("write, linked fdatasync", WriteMode::LinkedSync)];
    for (place, (name, mode)) in modes.into_iter().enumerate() {
        let root = parent.join(format!("write-latency-{}-{place}", std::process::id()));
        std::fs::create_dir(&root)?;
        let measured = measure(root.clone(), mode);
        std::fs::remove_dir_all(&root)?;
        let mut micros = measured?;
        micros.sort_unstable();
        let quantile = |q: usize| micros[micros.len() * q / 1000];
        println!("{name}: p50 {} us, p99 {} us, p99.9 {} us", quantile(500), quantile(990), quantile(999));
    }
    Ok(())
}

/// Microseconds of each of [`ROUNDS`] batches of one block, one in flight.
fn measure(root: PathBuf, mode: WriteMode) -> Result<Vec<u128>, Box<dyn Error>> {
    let mut disk = UringDisk::open(root, 32)?;
    let config = WalConfig { mode, ..WalConfig::new(WalId(0)) };
    let (mut wal, _) = Wal::open(&mut disk, config, 1)?;
    let mut micros = Vec::with_capacity(ROUNDS);
    for round in 0..ROUNDS {
        let sequence = wal.record_peer(NodeId(1), StoreId(round as u128));
        let start = Instant::now();
        while wal.released() < sequence {
            turn(&mut wal, &mut disk)?;
        }
        micros.push(start.elapsed().as_micros());
    }
    Ok(micros)
}

fn turn(wal: &mut Wal, disk: &mut UringDisk) -> Result<(), Box<dyn Error>> {
    wal.submit();
    while let Some((id, op)) = wal.poll_io() {
        disk.submit(id, op);
    }
    disk.flush()?;
    disk.completions(|id, result| wal.handle_io(id, result))?;
    match wal.failure() {
        Some(failure) => Err((*failure).into()),
        None => Ok(()),
    }
}
