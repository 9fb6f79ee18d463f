//! Free ports for the nodes: each listens on a run of consecutive ones, one a core.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};

/// Ports to choose among: above the well-known services, below those that the system gives to outgoing connections
/// (32768 and up on Linux). A node that dials a peer which is not up yet could otherwise be given the peer's port as
/// its own, and would then be connected to itself.
const CANDIDATES: std::ops::Range<u16> = 15_000..32_000;

/// The first address of a run of `cores` free ports for each of `nodes`. Somebody else can take one before the nodes
/// do; then opening the node says so. `seed` keeps programs that look at the same time apart.
pub(super) fn free_runs(nodes: u16, cores: u16, seed: u32) -> io::Result<Vec<SocketAddr>> {
    // All are held until all are found, so that none is found twice.
    let mut held: Vec<TcpListener> = Vec::new();
    let mut runs = Vec::new();
    let span = u32::from(CANDIDATES.end - CANDIDATES.start);
    let mut last_error = io::Error::from(io::ErrorKind::AddrNotAvailable);
    // A stride prime to the span visits every candidate.
    for step in 0..span {
        if runs.len() == usize::from(nodes) {
            return Ok(runs);
        }
        let offset = (seed.wrapping_mul(7_919) % span + step * 101) % span;
        let port = CANDIDATES.start + offset as u16;
        match hold_run(port, cores) {
            Ok(listeners) => {
                runs.push(SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
                held.extend(listeners);
            }
            Err(error) => last_error = error,
        }
    }
    Err(last_error)
}

fn hold_run(first: u16, cores: u16) -> io::Result<Vec<TcpListener>> {
    (first..first.saturating_add(cores)).map(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, port))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_free_and_do_not_overlap() {
        let runs = free_runs(3, 4, std::process::id()).expect("this machine has a dozen free ports");
        let mut listeners = Vec::new();
        for run in &runs {
            for core in 0..4 {
                listeners.push(TcpListener::bind((run.ip(), run.port() + core)).expect("free"));
            }
        }
        assert_eq!(listeners.len(), 12);
        let others = free_runs(3, 4, std::process::id()).expect("there are more");
        assert!(others.iter().all(|other| !runs.contains(other)), "taken ports are passed over");
    }
}
