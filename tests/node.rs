//! Whole nodes on real sockets and disks, in one process.

use raftyard::{
    Commands, Configuration, GroupConfig, GroupHandle, GroupId, Member, Node, NodeConfig, NodeId, NotProposed,
    ProposeError, ReplicaId, Responses, RoleName, StateMachine,
};
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::time::Duration;
use tempfile::TempDir;

/// Answers each command with the number of commands before it and the command itself.
#[derive(Default)]
struct Echo {
    applied: u64,
}

impl StateMachine for Echo {
    fn apply(&mut self, commands: Commands<'_>, responses: &mut Responses) {
        for command in commands {
            let mut response = self.applied.to_le_bytes().to_vec();
            response.extend_from_slice(command.data);
            responses.push(response.into());
            self.applied += 1;
        }
    }
}

fn echo(_: GroupId) -> Echo {
    Echo::default()
}

fn temp_dir() -> TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory on the target's filesystem")
}

/// Addresses nobody listens at, for `count` nodes.
fn free_addresses(count: u64) -> BTreeMap<NodeId, SocketAddr> {
    // All are held before any is released, so that they differ.
    let held: Vec<_> = (0..count).map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port")).collect();
    (1..).map(NodeId).zip(held.iter().map(|socket| socket.local_addr().expect("bound"))).collect()
}

/// An address nobody listens at, nor one port higher.
fn two_free_ports() -> SocketAddr {
    loop {
        let first = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port").local_addr().expect("bound");
        if first.port() < u16::MAX && TcpListener::bind((first.ip(), first.port() + 1)).is_ok() {
            return first;
        }
    }
}

fn config(node: NodeId, addresses: &BTreeMap<NodeId, SocketAddr>, dir: &TempDir) -> NodeConfig {
    NodeConfig {
        node,
        data_dir: dir.path().join(format!("node-{node}")),
        listen: addresses[&node],
        peers: addresses.clone(),
        pin: false,
        election_timeout_min: Duration::from_millis(300),
        election_timeout_max: Duration::from_millis(600),
        heartbeat_interval: Duration::from_millis(50),
        ..NodeConfig::default()
    }
    .with_segment_bytes(1 << 20)
}

fn open_all(addresses: &BTreeMap<NodeId, SocketAddr>, dir: &TempDir) -> Vec<Node> {
    addresses.keys().map(|&node| Node::open(config(node, addresses, dir), echo).expect("the node starts")).collect()
}

fn group_config(group: u64, nodes: u64) -> GroupConfig {
    let voters = (1..=nodes).map(|n| Member { replica: ReplicaId(n), node: NodeId(n) }).collect();
    GroupConfig {
        group: GroupId(group),
        configuration: Configuration::new(voters).expect("valid members"),
        preferred_leader: Some(NodeId(group % nodes + 1)),
    }
}

/// Proposes to whoever leads, until it is applied.
fn propose(nodes: &[Node], group: u64, command: &[u8]) -> Vec<u8> {
    for round in 0.. {
        let handle = nodes[round % nodes.len()].group(GroupId(group));
        match handle.propose(command.to_vec()).wait() {
            Ok(applied) => return applied.response.to_vec(),
            Err(ProposeError::NotProposed(NotProposed::NotLeader { .. })) => std::thread::yield_now(),
            Err(error) => panic!("group {group}: {error}"),
        }
    }
    unreachable!("the rounds don't end")
}

fn applied(handle: &GroupHandle) -> u64 {
    handle.status().wait().expect("the group is here").applied_index.0
}

#[test]
fn three_nodes_replicate_and_come_back() {
    let dir = temp_dir();
    let addresses = free_addresses(3);
    let nodes = open_all(&addresses, &dir);
    for group in 1..=5 {
        for node in &nodes {
            node.create_group(group_config(group, 3)).wait().expect("created");
        }
    }
    for round in 0..20u64 {
        for group in 1..=5 {
            let response = propose(&nodes, group, b"hello");
            assert_eq!(response[..8], round.to_le_bytes());
            assert_eq!(&response[8..], b"hello");
        }
    }
    // Every replica gets there, not only the leader's.
    for node in &nodes {
        let handle = node.group(GroupId(1));
        while applied(&handle) < 20 {
            std::thread::yield_now();
        }
    }
    let handle = nodes[0].group(GroupId(1));
    for node in nodes {
        node.shutdown().expect("no core was lost");
    }
    assert_eq!(
        handle.propose("late").wait().expect_err("the node is gone"),
        ProposeError::NotProposed(NotProposed::ShuttingDown)
    );

    let nodes = open_all(&addresses, &dir);
    for group in 1..=5 {
        let response = propose(&nodes, group, b"again");
        assert_eq!(response[..8], 20u64.to_le_bytes(), "all 20 commands were found in the log");
    }
}

#[test]
fn a_single_node_commits_by_itself_on_several_cores() {
    let dir = temp_dir();
    let addresses = BTreeMap::from([(NodeId(1), two_free_ports())]);
    let config = NodeConfig { cores: 2, ..config(NodeId(1), &addresses, &dir) };
    let node = Node::open(config, echo).expect("the node starts");
    for group in 1..=4 {
        node.create_group(group_config(group, 1)).wait().expect("created");
    }
    let nodes = [node];
    for group in 1..=4 {
        assert_eq!(propose(&nodes, group, b"x")[..8], 0u64.to_le_bytes());
        let status = nodes[0].group(GroupId(group)).status().wait().expect("the group is here");
        assert_eq!(status.role, RoleName::Leader);
    }
    let unknown = nodes[0].group(GroupId(99)).propose("x").wait();
    assert_eq!(unknown.expect_err("no such group"), ProposeError::NotProposed(NotProposed::NoSuchGroup));
}

/// A follower that missed more than the smallest send buffer holds still catches up, and commands of the largest size
/// pass: nothing that is sent at once exceeds the buffer.
#[test]
fn a_laggard_catches_up_through_the_smallest_send_buffer() {
    const ENTRY_BYTES_MAX: usize = 4096;
    let dir = temp_dir();
    let addresses = free_addresses(3);
    let open = |node| {
        let config = NodeConfig {
            entry_bytes_max: ENTRY_BYTES_MAX,
            send_buffer_bytes_max: ENTRY_BYTES_MAX + NodeConfig::SEND_OVERHEAD_BYTES,
            ..config(node, &addresses, &dir)
        };
        Node::open(config, echo).expect("the node starts")
    };
    let mut nodes: Vec<Node> = addresses.keys().rev().copied().map(open).collect();
    for node in &nodes {
        node.create_group(group_config(1, 3)).wait().expect("created");
    }
    let command = vec![7; ENTRY_BYTES_MAX];
    propose(&nodes, 1, &command);
    nodes.pop().expect("node 1, which doesn't lead").shutdown().expect("no core was lost");
    for _ in 0..300 {
        propose(&nodes, 1, &command);
    }
    nodes.push(open(NodeId(1)));
    let laggard = nodes[2].group(GroupId(1));
    while applied(&laggard) < 301 {
        std::thread::yield_now();
    }
}
