//! A core under its driver: how it ends, asked and unasked.
#![cfg(feature = "driver")]

use raftyard_raft::{GroupId, NodeId};
use raftyard_runtime::CoreConfig;
use raftyard_runtime::core::port::CoreId;
use raftyard_runtime::driver::{CoreLost, CoreRunning, CoreStart, Resolver, start};
use raftyard_runtime::group::{Commands, Responses, StateMachine};
use raftyard_runtime::mail::{Mail, Unavailable};
use raftyard_runtime::mailbox::SendError;
use raftyard_storage::io::WalId;
use raftyard_storage::wal::WalConfig;
use std::collections::BTreeMap;
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

struct Nothing;

impl StateMachine for Nothing {
    fn apply(&mut self, _: Commands<'_>, _: &mut Responses) {}
}

/// A defect in a task of the core.
struct Panics;

impl Resolver for Panics {
    fn address(&self, _: NodeId, _: CoreId) -> Option<SocketAddr> {
        panic!("this test wants it");
    }
}

fn run(dir: &Path, peers: Vec<NodeId>, resolver: Arc<dyn Resolver>) -> CoreRunning {
    let start_core = CoreStart {
        config: CoreConfig { peers, ..CoreConfig::default() },
        wal: WalConfig::new(WalId(0)).with_segment_bytes(256 << 10),
        data_dir: dir.to_owned(),
        listen: (Ipv4Addr::LOCALHOST, 0).into(),
        resolver,
        pin: None,
        machines: Arc::new(|_: GroupId| Nothing),
        mailbox_max: 16,
        connect_timeout: Duration::from_secs(1),
        seed: 1,
    };
    let mut starting = start(start_core).expect("a thread");
    starting.opened().expect("the log opens");
    starting.serve(false).expect("the core serves")
}

fn temp_dir() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory on the target's filesystem")
}

fn status() -> Mail {
    Mail::Status { group: GroupId(1), reply: oneshot::channel().0 }
}

#[test]
fn a_core_that_panics_is_lost_loudly() {
    let dir = temp_dir();
    let core = run(dir.path(), vec![NodeId(2)], Arc::new(Panics));
    let mailbox = Arc::clone(&core.mailbox);
    assert!(matches!(core.join(), Err(CoreLost::Panicked { core: CoreId(0) })));
    assert!(matches!(mailbox.send(status()), Err(SendError::Closed(_))), "nobody must wait for a lost core");
}

#[test]
fn a_core_ends_with_connections_open_and_a_peer_that_does_not_answer() {
    let dir = temp_dir();
    // Accepts connections (the backlog does) and never says a word.
    let silent = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let peers = BTreeMap::from([(NodeId(2), silent.local_addr().expect("bound"))]);
    let core = run(dir.path(), vec![NodeId(2)], Arc::new(peers));
    let (dialled, _) = silent.accept().expect("the core dials");
    let into = std::net::TcpStream::connect(core.address).expect("the core accepts");
    core.shut_down();
    core.join().expect("not lost");
    drop((dialled, into));
}

#[test]
fn a_core_that_is_not_wanted_after_all_frees_its_port() {
    let dir = temp_dir();
    let core = run(dir.path(), Vec::new(), Arc::new(BTreeMap::new()));
    let address = core.address;
    core.shut_down();
    core.join().expect("not lost");
    TcpListener::bind(address).expect("the port is free again");
}

/// Connections come and go faster than the core looks: each that ends frees its place for one that comes, and none may be
/// taken for another.
#[test]
fn a_core_survives_a_flood_of_short_connections() {
    let dir = temp_dir();
    let core = run(dir.path(), Vec::new(), Arc::new(BTreeMap::<NodeId, SocketAddr>::new()));
    let address = core.address;
    let clients: Vec<_> = (0..4)
        .map(|client| {
            std::thread::spawn(move || {
                for round in 0..250 {
                    let Ok(mut stream) = std::net::TcpStream::connect(address) else { continue };
                    if (round + client) % 2 == 0 {
                        drop(stream.write_all(b"GET / HTTP/1.1"));
                    }
                }
            })
        })
        .collect();
    for client in clients {
        client.join().expect("a client does not panic");
    }
    let (reply, answer) = oneshot::channel();
    core.mailbox.send(Mail::Status { group: GroupId(1), reply }).expect("the core lives");
    assert_eq!(answer.recv().expect("the core answers"), Err(Unavailable::NoSuchGroup));
    core.shut_down();
    core.join().expect("not lost");
}
