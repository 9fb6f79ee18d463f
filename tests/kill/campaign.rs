//! The rounds: load, kill, load on, start again, serve again, compare.

use crate::cluster::{Cluster, WITHIN};
use crate::load::{Client, Load, Record};
use crate::node;
use crate::random::Random;
use crate::verify::{self, GroupReplicas, Outcome, Verdict};
use raftyard::{GroupId, NodeId};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Groups of the cluster: several a leader, and few enough that each has a history worth comparing.
const GROUPS: u64 = 12;
/// Rounds until everything starts from nothing again.
const ROUNDS_A_DIRECTORY: u32 = 20;
/// How often the first start of fresh directories is killed, before the rounds in the last of them.
const FIRST_STARTS: u32 = 8;
/// All nodes.
const ALL: [usize; 3] = [0, 1, 2];
/// Who dies, by round: each, each two, all.
const VICTIMS: [&[usize]; 7] = [&[0], &[1], &[2], &[0, 1], &[1, 2], &[2, 0], &[0, 1, 2]];

/// Runs the campaign; panics at the first broken promise.
pub(crate) fn run(rounds: u32) {
    let mut random = Random::new(u64::from(rounds));
    for first in (1..=rounds).step_by(ROUNDS_A_DIRECTORY as usize) {
        let mut cluster = Cluster::start("campaign");
        kill_first_starts(&mut cluster, &mut random);
        cluster.create_groups(GROUPS);
        let record = Record::new(GROUPS, cluster.control());
        for round in first..=rounds.min(first + ROUNDS_A_DIRECTORY - 1) {
            let victims = VICTIMS[(round as usize - 1) % VICTIMS.len()];
            kill_under_load(&mut cluster, &record, victims, &mut random);
            serve_again(&mut cluster, &record);
            let verdict = compare(&mut cluster, &record);
            let told = verdict.told.iter().map(|fault| format!("{fault}\n")).collect::<String>();
            let kept = verdict.replicas_equal() && verdict.acknowledged_applied_once();
            assert!(kept, "round {round}: {} and {} faults\n{told}", verdict.unequal, verdict.broken);
            report(round, rounds, victims, &record);
        }
    }
}

/// Kills all nodes during the very first start of fresh directories, before anything was acknowledged: what is half made
/// must not keep the next start from serving.
fn kill_first_starts(cluster: &mut Cluster, random: &mut Random) {
    cluster.kill(&ALL);
    let began = Instant::now();
    cluster.spawn_afresh();
    ALL.iter().for_each(|place| cluster.wait_to_serve(*place));
    let took = u32::try_from(began.elapsed().as_micros()).expect("well below an hour");
    for time in 1..=FIRST_STARTS {
        cluster.kill(&ALL);
        cluster.spawn_afresh();
        let after = Duration::from_micros(u64::from(random.below(took)));
        std::thread::sleep(after);
        cluster.kill(&ALL);
        let made = ALL.map(|place| cluster.files_of(place));
        ALL.iter().for_each(|place| cluster.start_node(*place));
        println!("first start {time} of {FIRST_STARTS}: killed after {after:?} with {made:?} files made");
    }
}

/// Kills the victims while operations are under way, and starts them again while more are.
fn kill_under_load(cluster: &mut Cluster, record: &Arc<Record>, victims: &[usize], random: &mut Random) {
    let load = Load::start(record, random.next());
    wait_for_more(cluster, record, 100 + u64::from(random.below(500)));
    cluster.kill(victims);
    if victims.len() == 1 {
        // The other two are a majority: they must serve on while the third is gone.
        wait_for_more(cluster, record, 100 + u64::from(random.below(300)));
    }
    if random.below(3) == 0 {
        // Once more at any moment of their start: in the midst of recovery, of opening, of catching up.
        victims.iter().for_each(|place| cluster.spawn_node(*place));
        std::thread::sleep(Duration::from_micros(u64::from(random.below(60_000))));
        cluster.kill(victims);
    }
    victims.iter().for_each(|place| cluster.start_node(*place));
    wait_for_more(cluster, record, 100);
    load.stop();
}

fn wait_for_more(cluster: &mut Cluster, record: &Record, more: u64) {
    let enough = record.acknowledged() + more;
    cluster.wait_for("operations to be acknowledged", |_| record.acknowledged() >= enough);
}

/// One acknowledged operation in every group.
fn serve_again(cluster: &mut Cluster, record: &Record) {
    let mut client = Client::new(record);
    for group in (1..=GROUPS).map(GroupId) {
        let began = Instant::now();
        cluster.wait_for(&format!("group {group} to serve again"), |_| {
            let late = || began.elapsed() > WITHIN;
            matches!(client.operate(group, &late), Outcome::Acknowledged(_))
        });
    }
}

/// Waits until the replicas agree on how much they hold, and judges what.
fn compare(cluster: &mut Cluster, record: &Record) -> Verdict {
    let mut groups = Vec::new();
    for group in (1..=GROUPS).map(GroupId) {
        let mut replicas = Vec::new();
        cluster.wait_for(&format!("the replicas of group {group} to hold as much"), |cluster| {
            replicas = cluster.replicas(group);
            replicas.iter().all(|(_, sequence)| sequence.operations.len() == replicas[0].1.operations.len())
        });
        for (node, sequence) in &replicas {
            let expected = node::digest_of(sequence);
            assert_eq!(sequence.digest, expected, "group {group}, node {node}: bytes that nobody proposed");
        }
        groups.push((group, replicas));
    }
    let borrowed = groups.iter().map(|(group, replicas)| GroupReplicas {
        group: *group,
        replicas: replicas.iter().map(|(node, sequence)| (*node, sequence)).collect(),
    });
    verify::verify(&record.operations(), &borrowed.collect::<Vec<_>>())
}

fn report(round: u32, rounds: u32, victims: &[usize], record: &Record) {
    let operations = record.operations();
    let unknown = operations.iter().filter(|operation| operation.outcome == Outcome::Unknown).count();
    let victims = victims.iter().map(|place| NodeId(*place as u64 + 1).to_string()).collect::<Vec<_>>().join(", ");
    println!(
        "round {round} of {rounds}: killed {victims}; {} acknowledged, {unknown} unknown since the directory was made",
        record.acknowledged()
    );
}

/// A node that lost its disk and comes back empty must not pass for the node it was: it could vote again in terms where
/// its old self had voted, and so undo what was acknowledged.
pub(crate) fn empty_a_directory() {
    let mut cluster = Cluster::start("emptied");
    cluster.create_groups(GROUPS);
    let record = Record::new(GROUPS, cluster.control());
    serve_again(&mut cluster, &record);

    cluster.kill(&[2]);
    std::fs::remove_dir_all(cluster.directory(2)).expect("its directory is there");
    cluster.start_node(2);

    cluster.wait_for("the emptied node to be refused", |cluster| {
        let told = |place: usize| cluster.log_of(place).contains("emptied or replaced");
        told(0) && told(1) && told(2)
    });
    assert_eq!(cluster.ask(2, "status 1"), "none", "it holds no replica");
    serve_again(&mut cluster, &record);
}
