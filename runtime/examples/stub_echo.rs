use raftyard_raft::*;
use raftyard_runtime::core::CoreConfig;
use raftyard_runtime::core::port::CoreId;
use raftyard_runtime::driver::*;
use raftyard_runtime::group::*;
use raftyard_runtime::mail::*;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::net::SocketAddr;
use std::time::*;

struct M;
impl StateMachine for M { fn apply(&mut self, _: Commands<'_>, _: &mut Responses) {} }
struct R(Mutex<BTreeMap<NodeId, SocketAddr>>);
impl Resolver for R { fn address(&self, node: NodeId, _core: CoreId) -> Option<SocketAddr> { self.0.lock().unwrap().get(&node).copied() } }

fn main() {
    let resolver = Arc::new(R(Mutex::new(BTreeMap::new())));
    let mut cores = vec![];
    for n in 1..=2u64 {
        let start = CoreStart {
            config: CoreConfig { node: NodeId(n), peers: if n == 2 { vec![NodeId(1)] } else { vec![] }, ..Default::default() },
            wal: Default::default(), data_dir: "target/x".into(), listen: "127.0.0.1:0".parse().unwrap(),
            resolver: resolver.clone(), pin: None, machines: Arc::new(|_: GroupId| M), mailbox_max: 1024, connect_timeout: Duration::from_secs(1), seed: n };
        let core = raftyard_runtime::driver::start(start).unwrap().serve().unwrap();
        resolver.0.lock().unwrap().insert(NodeId(n), core.address);
        cores.push(core);
    }
    std::thread::sleep(Duration::from_millis(100));
    let n: usize = std::env::args().nth(1).map_or(10000, |s| s.parse().unwrap());
    let mut times = vec![];
    for _ in 0..n {
        let t = std::time::Instant::now();
        let (reply, answer) = oneshot::channel();
        cores[1].mailbox.send(Mail::Propose { group: GroupId(1), data: bytes::Bytes::from(vec![7; 128]), reply }).unwrap();
        answer.recv().unwrap().unwrap();
        times.push(t.elapsed());
    }
    times.sort();
    println!("p50 {:?} p99 {:?}", times[n/2], times[n*99/100]);
    for core in &cores { core.shut_down(); }
    let t = std::time::Instant::now();
    for core in cores { println!("{:?}", core.join()); }
    println!("ended in {:?}", t.elapsed());
}
