//! What operators and readers ask of a group on whole nodes: members, leadership, reads.

use raftyard::{
    Base, ChangeError, Commands, CompactError, Configuration, ConfigurationError, GroupConfig, GroupHandle, GroupId,
    LogIndex, Member, MemberChange, Node, NodeConfig, NodeId, NotChanged, NotProposed, ProposeError, ReadError,
    ReadMode, ReplicaId, Responses, RoleName, SnapshotSink, SnapshotSource, StateMachine, TransferError, Unavailable,
};
use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tempfile::TempDir;

const GROUP: GroupId = GroupId(7);

/// Changes of members as a machine was told of them: voters, learners, context.
type Told = Arc<Mutex<Vec<(usize, usize, String)>>>;

/// Counts commands; a read tells how many, after the query itself.
struct Count {
    applied: u64,
    told: Told,
}

impl StateMachine for Count {
    fn apply(&mut self, commands: Commands<'_>, responses: &mut Responses) {
        for _ in commands {
            self.applied += 1;
            responses.push(self.applied.to_le_bytes().to_vec().into());
        }
    }

    fn snapshot(&mut self) -> Option<Box<dyn SnapshotSource>> {
        let padding = vec![7; SNAPSHOT_BYTES];
        Some(Box::new(Picture([&self.applied.to_le_bytes()[..], &padding].concat().into())))
    }

    fn restore(&mut self) -> Option<Box<dyn SnapshotSink>> {
        Some(Box::new(Staging { bytes: Vec::new(), told: Arc::clone(&self.told) }))
    }

    fn read(&mut self, query: &raftyard::Bytes) -> raftyard::Bytes {
        [query, &self.applied.to_le_bytes()[..]].concat().into()
    }

    fn apply_membership(&mut self, _: raftyard::LogIndex, members: &Configuration, context: &raftyard::Bytes) {
        let context = String::from_utf8_lossy(context).into_owned();
        let told = (members.voters().count(), members.learners().count(), context);
        self.told.lock().expect("no panic while it is held").push(told);
    }
}

/// Large enough that a window of pieces closes a few times.
const SNAPSHOT_BYTES: usize = 1_000_000;

struct Picture(raftyard::Bytes);

impl SnapshotSource for Picture {
    fn next(&mut self, bytes_max: usize) -> io::Result<Option<raftyard::Bytes>> {
        let len = self.0.len().min(bytes_max);
        Ok((len > 0).then(|| self.0.split_to(len)))
    }
}

struct Staging {
    bytes: Vec<u8>,
    told: Told,
}

impl SnapshotSink for Staging {
    fn write(&mut self, piece: &[u8]) -> io::Result<()> {
        self.bytes.extend_from_slice(piece);
        Ok(())
    }

    fn finish(self: Box<Self>, _: &Base) -> io::Result<Box<dyn StateMachine>> {
        assert_eq!(self.bytes.len(), 8 + SNAPSHOT_BYTES, "a snapshot comes whole");
        let applied = u64::from_le_bytes(self.bytes[..8].try_into().expect("8 bytes"));
        Ok(Box::new(Count { applied, told: self.told }))
    }
}

struct Cluster {
    addresses: BTreeMap<NodeId, SocketAddr>,
    dir: TempDir,
    nodes: BTreeMap<NodeId, Node>,
    told: Told,
    leases: bool,
    /// Entries that logs keep for peers that lag.
    retain_entries: u64,
}

impl Cluster {
    fn new(count: u64, leases: bool) -> Cluster {
        Cluster::retaining(count, leases, NodeConfig::default().retain_entries)
    }

    fn retaining(count: u64, leases: bool, retain_entries: u64) -> Cluster {
        let held: Vec<_> = (0..count).map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port")).collect();
        let addresses = (1..).map(NodeId).zip(held.iter().map(|socket| socket.local_addr().expect("bound"))).collect();
        drop(held);
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory on the target's filesystem");
        let mut cluster =
            Cluster { addresses, dir, nodes: BTreeMap::new(), told: Told::default(), leases, retain_entries };
        for node in (1..=count).map(NodeId) {
            cluster.open(node);
        }
        cluster
    }

    fn open(&mut self, node: NodeId) {
        let config = NodeConfig {
            node,
            data_dir: self.dir.path().join(format!("node-{node}")),
            listen: self.addresses[&node],
            peers: self.addresses.clone(),
            pin: false,
            election_timeout_min: Duration::from_millis(400),
            election_timeout_max: Duration::from_millis(800),
            heartbeat_interval: Duration::from_millis(50),
            leases: self.leases,
            retain_entries: self.retain_entries,
            ..NodeConfig::default()
        };
        // One machine tells what it is told: that of node 1.
        let told = Arc::clone(&self.told);
        let machines =
            move |_| Count { applied: 0, told: if node.0 == 1 { Arc::clone(&told) } else { Told::default() } };
        let opened = Node::open(config.with_segment_bytes(1 << 20), machines).expect("the node starts");
        self.nodes.insert(node, opened);
    }

    fn create(&self, members: u64) {
        let configuration = Configuration::new((1..=members).map(member).collect()).expect("valid members");
        for node in self.nodes.values().take(members as usize) {
            let configuration = configuration.clone();
            let config = GroupConfig { group: GROUP, configuration, preferred_leader: Some(NodeId(1)) };
            node.create_group(config).wait().expect("created");
        }
    }

    fn group(&self, node: u64) -> GroupHandle {
        self.nodes[&NodeId(node)].group(GROUP)
    }

    /// The leader's node, as soon as there is one that has committed in its term.
    fn leader(&self) -> u64 {
        eventually("a leader", || {
            self.nodes.keys().map(|node| node.0).find(|&node| self.group(node).propose("x").wait().is_ok())
        })
    }
}

fn member(id: u64) -> Member {
    Member { replica: ReplicaId(id), node: NodeId(id) }
}

/// Asks again until there is an answer, for half a minute.
fn eventually<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(began.elapsed() < Duration::from_secs(30), "no {what} in time");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn count(response: &raftyard::Bytes, query: &[u8]) -> u64 {
    let (echo, count) = response.split_at(query.len());
    assert_eq!(echo, query);
    u64::from_le_bytes(count.try_into().expect("8 bytes"))
}

/// Asked again while the leader has yet to commit, or has no lease yet.
fn read(group: &GroupHandle, mode: ReadMode) -> u64 {
    eventually("answer to a read", || match group.read(mode, "how many").wait() {
        Ok(answer) => Some(count(&answer.response, b"how many")),
        Err(ReadError::NoLease | ReadError::NoCommitYet | ReadError::LeaderChanged) => None,
        Err(error) => panic!("{mode:?}: {error}"),
    })
}

#[test]
fn reads_see_what_was_acknowledged_before_them() {
    let cluster = Cluster::new(3, true);
    cluster.create(3);
    let leader = cluster.leader();
    let follower = if leader == 1 { 2 } else { 1 };
    let mut written = read(&cluster.group(leader), ReadMode::Index);
    for _ in 0..50 {
        cluster.group(leader).propose("x").wait().expect("applied");
        written += 1;
        for mode in [ReadMode::Index, ReadMode::Lease, ReadMode::Follower] {
            assert_eq!(read(&cluster.group(leader), mode), written, "{mode:?} on the leader");
        }
        assert_eq!(read(&cluster.group(follower), ReadMode::Follower), written, "on a follower");
    }
    for mode in [ReadMode::Index, ReadMode::Lease] {
        let refused = cluster.group(follower).read(mode, "").wait().expect_err("only the leader can tell");
        assert_eq!(refused, ReadError::NotLeader { leader: Some(NodeId(leader)) });
    }
    let unknown = cluster.nodes[&NodeId(1)].group(GroupId(99)).read(ReadMode::Index, "").wait();
    assert_eq!(unknown, Err(Unavailable::NoSuchGroup.into()));
}

#[test]
fn a_lease_is_kept_over_a_restart() {
    let mut cluster = Cluster::new(3, true);
    cluster.create(3);
    let leader = cluster.leader();
    read(&cluster.group(leader), ReadMode::Lease);
    for node in [1, 2, 3].map(NodeId) {
        cluster.nodes.remove(&node).expect("it runs").shutdown().expect("no core was lost");
    }
    let down = Instant::now();
    for node in [1, 2, 3].map(NodeId) {
        cluster.open(node);
    }
    cluster.leader();
    assert!(down.elapsed() >= Duration::from_millis(400), "somebody was elected while a promise bound the voters");
}

#[test]
fn leases_must_be_asked_for() {
    let cluster = Cluster::new(1, false);
    cluster.create(1);
    let leader = cluster.leader();
    assert_eq!(cluster.group(leader).read(ReadMode::Lease, "").wait(), Err(ReadError::LeasesOff));
}

#[test]
fn leadership_goes_where_it_is_sent() {
    let cluster = Cluster::new(3, false);
    cluster.create(3);
    for round in 0..6 {
        let leader = cluster.leader();
        let to = leader % 3 + 1;
        assert_eq!(cluster.group(leader).transfer_leadership(NodeId(leader)).wait(), Err(TransferError::AlreadyLeads));
        assert_eq!(
            cluster.group(leader).transfer_leadership(NodeId(9)).wait(),
            Err(TransferError::NotVoter(NodeId(9)))
        );
        cluster.group(leader).transfer_leadership(NodeId(to)).wait().unwrap_or_else(|e| panic!("round {round}: {e}"));
        assert_eq!(cluster.leader(), to);
        let error = cluster.group(leader).transfer_leadership(NodeId(to)).wait().expect_err("it leads no more");
        assert_eq!(error, TransferError::NotLeader { leader: Some(NodeId(to)) });
    }
}

#[test]
fn members_come_and_go_while_the_group_serves() {
    let cluster = Cluster::new(4, false);
    cluster.create(3);
    let leader = cluster.leader();
    let group = cluster.group(leader);
    cluster.nodes[&NodeId(4)].join_group(GROUP, ReplicaId(4)).wait().expect("created");
    let change = |changes: Vec<MemberChange>| group.change_membership(changes, "why").wait();
    let used = change(vec![MemberChange::AddVoter(Member { replica: ReplicaId(2), node: NodeId(4) })]);
    let (replica, highest) = (ReplicaId(2), ReplicaId(3));
    let error = NotChanged::Configuration(ConfigurationError::ReplicaIdUsed { replica, highest });
    assert_eq!(used, Err(ChangeError::NotChanged(error)));
    let nowhere = change(vec![MemberChange::AddVoter(member(5))]);
    assert_eq!(nowhere, Err(ChangeError::NotChanged(NotChanged::UnknownNode(NodeId(5)))));

    change(vec![MemberChange::AddLearner(member(4))]).expect("a learner");
    let newcomer = cluster.group(4);
    let caught_up = eventually("newcomer", || {
        let (ours, theirs) = (group.status().wait().ok()?, newcomer.status().wait().ok()?);
        (theirs.applied_index == ours.commit_index).then_some(theirs)
    });
    assert!(caught_up.configuration.is_learner(ReplicaId(4)));
    // One of the others is replaced in one step, while a writer goes on.
    let leaves = if leader == 3 { 2 } else { 3 };
    let writer = {
        let group = group.clone();
        std::thread::spawn(move || (0..200).filter(|_| group.propose("x").wait().is_ok()).count())
    };
    change(vec![MemberChange::Promote(ReplicaId(4)), MemberChange::Remove(ReplicaId(leaves))]).expect("a replacement");
    assert_eq!(writer.join().expect("the writer ends"), 200, "a change disturbs nobody");
    let members = group.status().wait().expect("it is here").configuration;
    assert!(!members.is_joint() && members.is_voter(ReplicaId(4)) && members.seat(ReplicaId(leaves)).is_none());
    assert!(cluster.told.lock().expect("no panic").iter().any(|(_, learners, why)| (*learners, &**why) == (1, "why")));

    // The leader removes itself: it steps down, and the others go on.
    change(vec![MemberChange::Remove(ReplicaId(leader))]).expect("it sees its own removal");
    let refused = group.propose("x").wait().expect_err("it leads no more");
    assert!(matches!(refused, ProposeError::NotProposed(NotProposed::NotLeader { .. })), "{refused}");
    let next = cluster.leader();
    assert!(next != leader && next != leaves, "{next} is no member");
    // Those who were removed stay quiet.
    std::thread::sleep(Duration::from_millis(1_500));
    let status = cluster.group(next).status().wait().expect("it is here");
    assert_eq!((status.role, cluster.leader()), (RoleName::Leader, next));
}

#[test]
fn a_lost_majority_is_replaced_by_force() {
    let mut cluster = Cluster::new(3, false);
    cluster.create(3);
    let leader = cluster.leader();
    let survivor = cluster.group(1);
    eventually("the same log everywhere", || {
        let last = cluster.group(leader).status().wait().ok()?.last_index;
        (survivor.status().wait().ok()?.last_index == last).then_some(())
    });
    let refused = cluster.group(leader).force_membership(Vec::new()).wait();
    assert!(refused.is_err(), "a majority is there");
    for node in [2, 3].map(NodeId) {
        cluster.nodes.remove(&node).expect("it runs").shutdown().expect("no core was lost");
    }
    eventually("forced membership", || survivor.force_membership(Vec::new()).wait().ok());
    assert_eq!(cluster.leader(), 1);
    let status = survivor.status().wait().expect("it is here");
    assert_eq!(status.configuration.voters().collect::<Vec<_>>(), [member(1)]);
}

#[test]
fn a_follower_that_lacks_compacted_entries_gets_a_snapshot() {
    let mut cluster = Cluster::retaining(3, false, 20);
    cluster.create(3);
    let leader = cluster.leader();
    let away = if leader == 1 { 2 } else { 1 };
    cluster.nodes.remove(&NodeId(away)).expect("it runs").shutdown().expect("no core was lost");
    let group = cluster.group(leader);
    let answers: Vec<_> = (0..2_000).map(|_| group.propose(vec![1; 2_000])).collect();
    let last = answers.into_iter().map(|answer| answer.wait().expect("applied").index).max().expect("2,000 of them");
    // Whatever the log did by itself, now it has nothing of what the other lacks.
    group.compact(last).wait().expect("compacted");
    assert_eq!(group.compact(LogIndex(1)).wait(), Err(CompactError::Compacted { index: LogIndex(1), base: last }));
    let beyond = group.compact(LogIndex(last.0 + 1_000)).wait();
    assert!(matches!(beyond, Err(CompactError::NotApplied { .. })), "{beyond:?}");
    let written = read(&group, ReadMode::Index);

    cluster.open(NodeId(away));
    let back = cluster.group(away);
    eventually("follower that is up to date", || {
        let status = back.status().wait().ok()?;
        (status.applied_index >= last).then_some(())
    });
    assert_eq!(read(&back, ReadMode::Follower), written, "it holds what the others hold");
    for node in [1, 2, 3].map(NodeId) {
        cluster.nodes.remove(&node).expect("it runs").shutdown().expect("no core was lost");
    }
    for node in [1, 2, 3].map(NodeId) {
        cluster.open(node);
    }
    cluster.leader();
    for node in 1..=3 {
        let held = read(&cluster.group(node), ReadMode::Follower);
        assert!(held > written, "node {node} holds {held} of {written} after a restart");
    }
}
