//! The commands of a scenario, each as words: its name, and what it is about. What they mean is told in `scenario`.

use crate::cluster::{Cluster, Start, member};
use crate::packet::Packet;
use crate::random::settle;
use crate::show;
use bytes::Bytes;
use raftyard_raft::{LogIndex, Member, MemberChange, ReplicaId};

pub(crate) fn command(cluster: &mut Cluster, name: &str, words: &[&str]) -> Result<Vec<String>, String> {
    let mut said = Vec::new();
    match name {
        "deliver" | "drop" | "double" | "postpone" => said = on_link(cluster, name, words)?,
        "settle" => settle(cluster),
        "elect" => elect(cluster, words)?,
        "clock" => cluster.now.0 += number::<u64>(words, 0)?,
        "cut" => {
            let (from, to): (usize, Option<usize>) = (number(words, 0)?, number(words, 1).ok());
            let lost = |p: &Packet| {
                let of = |id: usize| p.from() == id || p.to() == id;
                of(from) && to.is_none_or(of)
            };
            cluster.network.retain(|p| !lost(p));
        }
        "split" => {
            cluster.apart = words
                .iter()
                .map(|id| id.parse().map_err(|_| format!("{id} is no replica")))
                .collect::<Result<_, _>>()?;
        }
        "heal" => cluster.apart.clear(),
        "rest" => rest(cluster, number(words, 0).unwrap_or(3)),
        "join" => cluster.join(number(words, 0)?),
        "wait" => {
            cluster.now.0 += number::<u64>(words, 0)?;
            for id in cluster.ids() {
                let now = cluster.now;
                if let Some(raft) = cluster.raft(id) {
                    raft.handle_deadline(now);
                }
                cluster.turn(id);
            }
        }
        "status" => said = show::status(cluster),
        "logs" => said = show::logs(cluster),
        "members" => said = show::membership(cluster),
        "network" => said = cluster.network.iter().map(Packet::describe).collect(),
        "crash" => {
            cluster.crash(number(words, 0)?, number(words, 1).unwrap_or(0));
        }
        "restart" => restart(cluster, words)?,
        "lose" => lose(cluster, words)?,
        "fetched" => {
            let (id, count) = (number(words, 0)?, number(words, 1).unwrap_or(usize::MAX));
            if cluster.replica(id).fetches.is_empty() {
                return Err("it asks for nothing".to_owned());
            }
            cluster.fetched(id, 0, count);
            cluster.turn(id);
        }
        "persist" => {
            let id = number(words, 0)?;
            for _ in 0..number(words, 1).unwrap_or(1) {
                cluster.persisted(id);
            }
            cluster.turn(id);
        }
        _ => {
            let id = number(words, 0)?;
            said = on_replica(cluster, name, id, &words[1..])?;
            cluster.turn(id);
        }
    }
    Ok(said)
}

/// Starts a replica from its disk: `restart 1 [applied] [paged=3]`.
fn restart(cluster: &mut Cluster, words: &[&str]) -> Result<(), String> {
    let id = number(words, 0)?;
    let mut start = Start::default();
    for word in &words[1..] {
        let parse = |word: &str| word.parse().map(LogIndex).map_err(|_| format!("{word} is no number"));
        match word.strip_prefix("paged=") {
            Some(paged) => start.paged = parse(paged)?,
            None => start.applied = parse(word)?,
        }
    }
    cluster.start(id, start);
    Ok(())
}

/// The disk of a replica that is down loses something: `lose 1 after=3 | writes=2 | all`.
fn lose(cluster: &mut Cluster, words: &[&str]) -> Result<(), String> {
    let id: usize = number(words, 0)?;
    let initial = cluster.base_at(LogIndex(0)).configuration;
    let disk = &mut cluster.replicas[id - 1].disk;
    let (what, count) = words.get(1).map_or(("", ""), |word| word.split_once('=').unwrap_or((word, "")));
    match (what, count.parse::<usize>()) {
        ("after", Ok(index)) => disk.lose_after(LogIndex(index as u64)),
        ("writes", Ok(back)) if back <= disk.former() => disk.lose_writes(back),
        ("all", Err(_)) => disk.lose_all(&initial),
        _ => return Err("after=index, writes=count or all is wanted".to_owned()),
    }
    Ok(())
}

/// The leader beats and everything is delivered and persisted, so many times.
fn rest(cluster: &mut Cluster, rounds: usize) {
    for _ in 0..rounds {
        if let Some(id) = cluster.leader() {
            let now = cluster.now;
            if let Some(raft) = cluster.raft(id) {
                raft.beat(now);
            }
            cluster.turn(id);
        }
        settle(cluster);
    }
}

/// A command to one replica.
fn on_replica(cluster: &mut Cluster, name: &str, id: usize, words: &[&str]) -> Result<Vec<String>, String> {
    let now = cluster.now;
    if name == "deadline" {
        cluster.deadline(id);
        return Ok(Vec::new());
    }
    if name == "force" {
        cluster.invariants.forced(&cluster.replicas, id);
    }
    let raft = cluster.raft(id).ok_or("it is down")?;
    let peer = |place| number(words, place).map(ReplicaId);
    let mut said = Vec::new();
    match name {
        "propose" => {
            for data in words {
                let proposed = raft.propose(Bytes::copy_from_slice(data.as_bytes()));
                said.extend(proposed.err().map(|error| format!("refused: {error}")));
            }
        }
        "campaign" => said.extend(raft.campaign(now).err().map(|error| format!("refused: {error}"))),
        "beat" => raft.beat(now),
        "step_down" => raft.step_down(now),
        "unreachable" => raft.handle_unreachable(peer(0)?),
        "reachable" => raft.handle_reachable(peer(0)?),
        "snapshot_failed" => raft.handle_snapshot_failed(peer(0)?),
        "priority" => raft.set_priority(number(words, 0)?),
        "transfer" => {
            let begun = raft.transfer_leadership(now, peer(0)?);
            said.extend(begun.err().map(|error| format!("refused: {error}")));
        }
        "lease" => said.push(match raft.lease_read(now) {
            Ok(index) => format!("may read at {index}"),
            Err(error) => format!("refused: {error}"),
        }),
        "change" => {
            let (changes, context) = changes(words)?;
            let changed = raft.change_membership(&changes, context);
            said.extend(changed.err().map(|error| format!("refused: {error}")));
        }
        "force" => {
            let learners = words.first().and_then(|word| word.strip_prefix("learners="));
            let learners: Vec<Member> = ids(learners.unwrap_or(""))?.into_iter().map(member).collect();
            said.extend(raft.force_membership(now, learners).err().map(|error| format!("refused: {error}")));
        }
        "evict" => {
            let freed = raft.evict(LogIndex(number(words, 0)?));
            said.push(format!("{id} has its log in memory from {} on", raft.first_in_memory()));
            said.extend((freed == 0).then(|| "that frees nothing".to_owned()));
        }
        "unread" => {
            let fetches = &mut cluster.replicas[id - 1].fetches;
            let (fetch, _) = (!fetches.is_empty()).then(|| fetches.remove(0)).ok_or("it asks for nothing")?;
            cluster.raft(id).ok_or("it is down")?.handle_fetch_failed(fetch);
        }
        "compact" => {
            let compacted = cluster.compact(id, LogIndex(number(words, 0)?));
            said.extend(compacted.err().map(|error| format!("refused: {error}")));
        }
        _ => return Err("no such command".to_owned()),
    }
    Ok(said)
}

/// Changes in words: `add=4 remove=3`, and the context.
fn changes(words: &[&str]) -> Result<(Vec<MemberChange>, Bytes), String> {
    let mut changes = Vec::new();
    let mut context = Bytes::new();
    for word in words {
        let (name, value) = word.split_once('=').ok_or("what=replica is wanted")?;
        if name == "context" {
            context = Bytes::copy_from_slice(value.as_bytes());
            continue;
        }
        for id in ids(value)? {
            let replica = ReplicaId(id as u64);
            changes.push(match name {
                "add" => MemberChange::AddVoter(member(id)),
                "learner" => MemberChange::AddLearner(member(id)),
                "promote" => MemberChange::Promote(replica),
                "demote" => MemberChange::Demote(replica),
                "remove" => MemberChange::Remove(replica),
                _ => return Err(format!("no change is called {name}")),
            });
        }
    }
    Ok((changes, context))
}

/// Makes a replica the leader with the votes of all, or of those named after `by`.
fn elect(cluster: &mut Cluster, words: &[&str]) -> Result<(), String> {
    let id = number(words, 0)?;
    let voters: Vec<usize> = (2..words.len()).map(|place| number(words, place)).collect::<Result<_, _>>()?;
    for _ in 0..3 {
        // Whoever heard a leader lately refuses pre-votes; a refusal may also tell of a higher term, so try again.
        cluster.now.0 += 1_000;
        let now = cluster.now;
        let _ = cluster.raft(id).ok_or("it is down")?.campaign(now);
        cluster.turn(id);
        if voters.is_empty() {
            settle(cluster);
        }
        for _ in 0..4 {
            talk(cluster, id, &voters);
        }
        if cluster.leader() == Some(id) {
            if voters.is_empty() {
                let now = cluster.now;
                cluster.raft(id).ok_or("it is down")?.beat(now);
                cluster.turn(id);
                settle(cluster);
            }
            return Ok(());
        }
    }
    Err(format!("{id} can't win: {:?}", show::status(cluster)))
}

/// One exchange of a candidate with some voters. As soon as it leads, what else is on its way from and to it is lost.
fn talk(cluster: &mut Cluster, id: usize, voters: &[usize]) {
    for voter in voters {
        for (from, to) in [(id, *voter), (*voter, id)] {
            if cluster.leader() == Some(id) {
                cluster.network.retain(|p| p.is_append_from(id) || (p.from() != id && p.to() != id));
                return;
            }
            let link = |p: &mut Packet| p.from() == from && p.to() == to;
            let packets: Vec<Packet> = cluster.network.extract_if(.., link).collect();
            for packet in packets {
                cluster.deliver(&packet).expect("an honest message is taken");
            }
            cluster.turn(to);
            while cluster.writes(to) > 0 && cluster.leader() != Some(id) {
                cluster.persisted(to);
                cluster.turn(to);
            }
        }
    }
}

/// The commands on the oldest messages of one link.
fn on_link(cluster: &mut Cluster, name: &str, words: &[&str]) -> Result<Vec<String>, String> {
    let (_, to) = link(words)?;
    let mut said = Vec::new();
    for (place, packet) in take(cluster, words)? {
        match name {
            "deliver" => said.extend(cluster.deliver(&packet).err().map(|error| format!("refused: {error}"))),
            "drop" => said.push(format!("lost: {}", packet.describe())),
            "double" => {
                cluster.network.insert(place, packet.clone());
                cluster.network.insert(place, packet);
            }
            _ => cluster.network.push(packet),
        }
    }
    if name == "deliver" {
        cluster.turn(to);
    }
    Ok(said)
}

/// Takes the messages that a command on a link names off the network, with their places there: `1->2`, and how many, or
/// all, or the oldest of a kind.
pub(crate) fn take(cluster: &mut Cluster, words: &[&str]) -> Result<Vec<(usize, Packet)>, String> {
    let (from, to) = link(words)?;
    let (count, kind) = match words.get(1) {
        None => (1, None),
        Some(&"all") => (usize::MAX, None),
        Some(word) => word.parse().map_or((1, Some(*word)), |count| (count, None)),
    };
    let mut taken = Vec::new();
    while taken.len() < count {
        let wanted = |p: &Packet| p.from() == from && p.to() == to && kind.is_none_or(|kind| p.kind() == kind);
        match cluster.network.iter().position(wanted) {
            Some(place) => taken.push((place, cluster.network.remove(place))),
            None if count == usize::MAX => break,
            None => return Err(format!("only {} such messages are on their way", taken.len())),
        }
    }
    Ok(taken)
}

fn link(words: &[&str]) -> Result<(usize, usize), String> {
    let link = words.first().and_then(|w| w.split_once("->")).ok_or("from->to is wanted")?;
    let end = |id: &str| id.parse::<usize>().map_err(|_| format!("{id} is no replica"));
    Ok((end(link.0)?, end(link.1)?))
}

/// `1,2,3`; nothing for an empty text.
pub(crate) fn ids(text: &str) -> Result<Vec<usize>, String> {
    let id = |word: &str| word.parse().map_err(|_| format!("{word} is no replica"));
    text.split(',').filter(|word| !word.is_empty()).map(id).collect()
}

pub(crate) fn number<T: std::str::FromStr>(words: &[&str], place: usize) -> Result<T, String> {
    let word = words.get(place).ok_or("a number is missing")?;
    word.parse().map_err(|_| format!("{word} is no number"))
}
