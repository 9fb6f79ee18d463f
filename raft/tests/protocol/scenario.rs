//! Runs the scenarios of `tests/scenarios`: commands with what happens then below each.
//!
//! A command stands on one or more lines, then `----`, then its output up to an empty line; lines with `#` are for the
//! reader. With `RAFTYARD_REWRITE=1` the outputs are written anew; read the difference before it is kept.
//!
//! ```text
//! cluster 5 [voters=1,2,3] [learners=4] [name=value ...]   five replicas, all voters unless it is said who is what; who
//!                              is neither is created by `join`. Settings in the words of `Settings`, and
//!                              write_bytes_max, writes_max; `leases=yes`, `drift=` in millionths
//! log 2 terms=1,1,4 [term=5] [vote=1]     what replica 2 has on disk, before anything happens
//! elect 1                      a long silence, then 1 campaigns and wins, and everybody knows what is committed
//! elect 1 by 2 3               the same, but 1 talks to 2 and 3 alone, and only its first appends are on their way
//! campaign 1 | deadline 1 | beat 1 | step_down 1 | unreachable 1 2 | reachable 1 2 | priority 1 5
//! propose 1 data ...
//! change 1 add=4 learner=5 promote=5 demote=2 remove=3 [context=why]     all in one step
//! force 3 [learners=1,2]       an operator makes 3 the only voter
//! join 4                       replica 4 is created, and knows nobody
//! transfer 1 2                 1 gives its leadership to 2
//! read 1 name                  a read by index at 1; what becomes of it is told when it is known
//! lease 1                      a read by lease at 1
//! compact 1 5 | snapshot_failed 1 2
//! deliver 1->2 [count]         the oldest messages from 1 to 2, in one turn of 2; `all` for all of them
//! drop 1->2 [count] | double 1->2 | postpone 1->2      the oldest is lost, is sent again, or goes behind the others
//! cut 1 2                      everything on its way from, and to, these replicas is lost
//! persist 1 [count]            the oldest writes of 1 complete
//! settle                       everything is delivered and persisted, until nothing happens any more
//! crash 1 [kept]               1 loses all writes under way but the first `kept`
//! restart 1 [applied]
//! wait 150                     time passes, and whose time has run out is told
//! clock 150                    time passes, and nobody is told
//! status | network | logs | members     what the replicas are, what is on its way, what the logs hold, who is a member
//! ```
//! After `quiet` only changes of role are told.

use crate::cluster::{Cluster, Disk, member, settings};
use crate::packet::{Packet, list, members};
use crate::random::settle;
use bytes::Bytes;
use raftyard_raft::{
    Configuration, Entry, EntryKind, HardState, LogIndex, Member, MemberChange, ReadState, ReadTicket, ReplicaId, Role,
    Settings, Term,
};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

#[test]
fn scenarios_end_as_written() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scenarios");
    let mut files: Vec<PathBuf> = std::fs::read_dir(&folder).unwrap().map(|f| f.unwrap().path()).collect();
    files.sort();
    assert!(files.len() >= 12, "only {} scenarios in {}", files.len(), folder.display());
    let rewrite = std::env::var_os("RAFTYARD_REWRITE").is_some();
    let mut wrong = Vec::new();
    for file in files {
        let written = std::fs::read_to_string(&file).unwrap();
        let happened = play(&written).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        if rewrite {
            std::fs::write(&file, happened).unwrap();
        } else if happened != written {
            wrong.push(difference(&file, &written, &happened));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn difference(file: &Path, written: &str, happened: &str) -> String {
    let same = written.lines().zip(happened.lines()).take_while(|(a, b)| a == b).count();
    let at = |text: &str| text.lines().skip(same.saturating_sub(3)).take(12).collect::<Vec<_>>().join("\n    ");
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    format!("{name}, line {}: expected\n    {}\nbut it was\n    {}", same + 1, at(written), at(happened))
}

/// The text with what happened in place of what was expected.
fn play(text: &str) -> Result<String, String> {
    let mut stage = Stage::default();
    let mut happened = String::new();
    let mut lines = text.lines().peekable();
    let mut output = Vec::new();
    while let Some(line) = lines.next() {
        happened.push_str(line);
        happened.push('\n');
        if line.trim().is_empty() || line.starts_with('#') {
            continue;
        }
        if line != "----" {
            output.extend(stage.run(line).map_err(|error| format!("`{line}`: {error}"))?);
            continue;
        }
        while lines.peek().is_some_and(|l| !l.is_empty()) {
            lines.next();
        }
        for line in output.drain(..) {
            let _ = writeln!(happened, "{line}");
        }
    }
    if output.is_empty() { Ok(happened) } else { Err("the last command has no ---- below it".to_owned()) }
}

/// What a scenario plays on.
#[derive(Default)]
struct Stage {
    disks: Vec<Option<Disk>>,
    settings: Settings,
    persist: Option<(usize, usize)>,
    cluster: Option<Cluster>,
    /// Reads whose end was not told yet: where, and how they are called.
    reads: Vec<(usize, String, ReadTicket)>,
}

impl Stage {
    /// Runs one command and says what happened.
    fn run(&mut self, line: &str) -> Result<Vec<String>, String> {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[0] {
            "cluster" => return self.prepare(&words[1..]).map(|()| Vec::new()),
            "log" => return self.write_log(&words[1..]).map(|()| Vec::new()),
            _ => {}
        }
        let disks = &mut self.disks;
        let settings = &self.settings;
        let persist = self.persist;
        let cluster = self.cluster.get_or_insert_with(|| {
            let mut cluster = Cluster::new(std::mem::take(disks), settings.clone(), 0);
            cluster.persist = persist.unwrap_or(cluster.persist);
            cluster.trace = Some(Vec::new());
            cluster
        });
        let before = roles(cluster);
        let (quiet, words) = match words.split_first() {
            Some((&"quiet", rest)) if !rest.is_empty() => (true, rest),
            _ => (words[0] == "elect", &words[..]),
        };
        let said = match words[0] {
            "read" => begin_read(cluster, &words[1..], &mut self.reads)?,
            name => command(cluster, name, &words[1..])?,
        };
        let mut output = cluster.trace.as_mut().map(std::mem::take).unwrap_or_default();
        output.extend(said);
        if quiet {
            output.clear();
        }
        for (was, is) in before.into_iter().zip(roles(cluster)) {
            if was != is {
                output.push(is);
            }
        }
        self.reads.retain(|(id, name, ticket)| !read_ended(cluster, *id, name, ticket, &mut output));
        if output.is_empty() && !quiet {
            output.push("nothing".to_owned());
        }
        Ok(output)
    }

    fn prepare(&mut self, words: &[&str]) -> Result<(), String> {
        let count: usize = number(words, 0)?;
        let (mut voters, mut learners): (Vec<usize>, Vec<usize>) = ((1..=count).collect(), Vec::new());
        self.settings = settings();
        let mut persist = (usize::MAX, usize::MAX);
        for word in &words[1..] {
            let (name, value) = word.split_once('=').ok_or("name=value is wanted")?;
            let number = || value.parse::<usize>().map_err(|_| format!("{value} is no number"));
            let settings = &mut self.settings;
            match name {
                "voters" => voters = ids(value)?,
                "learners" => learners = ids(value)?,
                "append_bytes_max" => settings.append_bytes_max = number()?,
                "inflight_appends_max" => settings.inflight_appends_max = number()?,
                "inflight_bytes_max" => settings.inflight_bytes_max = number()?,
                "uncommitted_bytes_max" => settings.uncommitted_bytes_max = number()?,
                "election_timeout_max" => settings.election_timeout_max = Duration::from_nanos(number()? as u64),
                "leases" => settings.leases = value == "yes",
                "drift" => settings.clock_drift_max_ppm = u32::try_from(number()?).map_err(|e| e.to_string())?,
                "write_bytes_max" => persist.0 = number()?,
                "writes_max" => persist.1 = number()?,
                _ => return Err(format!("no setting {name}")),
            }
        }
        self.persist = Some(persist);
        let all = |ids: &[usize]| ids.iter().map(|id| member(*id)).collect::<Vec<_>>();
        let configuration = Configuration::with_learners(all(&voters), all(&learners)).map_err(|e| e.to_string())?;
        let known = |id| voters.contains(&id) || learners.contains(&id);
        self.disks = (1..=count).map(|id| known(id).then(|| Disk::fresh(configuration.clone()))).collect();
        Ok(())
    }

    fn write_log(&mut self, words: &[&str]) -> Result<(), String> {
        let id: usize = number(words, 0)?;
        let disk = self.disks.get_mut(id - 1).and_then(Option::as_mut).ok_or("there is no such replica")?;
        for word in &words[1..] {
            let (name, value) = word.split_once('=').ok_or("name=value is wanted")?;
            let parse = |value: &str| value.parse::<u64>().map_err(|_| format!("{value} is no number"));
            match name {
                "terms" => {
                    for (i, term) in value.split(',').enumerate() {
                        let (term, index) = (Term(parse(term)?), LogIndex(i as u64 + 1));
                        let data = Bytes::from(format!("t{term}"));
                        disk.entries.push(Entry { term, index, kind: EntryKind::Command, data });
                        disk.hard.term = term;
                    }
                }
                "term" => disk.hard = HardState { term: Term(parse(value)?), vote: disk.hard.vote },
                "vote" => disk.hard.vote = Some(ReplicaId(parse(value)?)),
                _ => return Err(format!("a log has no {name}")),
            }
        }
        Ok(())
    }
}

fn command(cluster: &mut Cluster, name: &str, words: &[&str]) -> Result<Vec<String>, String> {
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
        "status" => said = status(cluster),
        "logs" => said = logs(cluster),
        "members" => said = membership(cluster),
        "network" => said = cluster.network.iter().map(Packet::describe).collect(),
        "crash" => {
            cluster.crash(number(words, 0)?, number(words, 1).unwrap_or(0));
        }
        "restart" => cluster.restart(number(words, 0)?, LogIndex(number(words, 1).unwrap_or(0))),
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

fn begin_read(
    cluster: &mut Cluster,
    words: &[&str],
    reads: &mut Vec<(usize, String, ReadTicket)>,
) -> Result<Vec<String>, String> {
    let id = number(words, 0)?;
    let name = (*words.get(1).ok_or("a read wants a name")?).to_owned();
    let now = cluster.now;
    let begun = cluster.raft(id).ok_or("it is down")?.read_index(now);
    cluster.turn(id);
    match begun {
        Ok(ticket) => reads.push((id, name, ticket)),
        Err(error) => return Ok(vec![format!("refused: {error}")]),
    }
    Ok(Vec::new())
}

/// Tells of a read that waits no more.
fn read_ended(cluster: &Cluster, id: usize, name: &str, ticket: &ReadTicket, output: &mut Vec<String>) -> bool {
    let state = cluster.replica(id).raft.as_ref().map_or(ReadState::Lost, |raft| raft.read_state(ticket));
    match state {
        ReadState::Waiting => return false,
        ReadState::Ready(index) => output.push(format!("read {name} may be served at {index}")),
        ReadState::Lost => output.push(format!("read {name} is lost")),
    }
    true
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
    Err(format!("{id} can't win: {:?}", status(cluster)))
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
    let link = words.first().and_then(|w| w.split_once("->")).ok_or("from->to is wanted")?;
    let end = |id: &str| id.parse::<usize>().map_err(|_| format!("{id} is no replica"));
    let (from, to) = (end(link.0)?, end(link.1)?);
    let all = words.get(1) == Some(&"all");
    let count = if all { usize::MAX } else { number(words, 1).unwrap_or(1) };
    let mut said = Vec::new();
    for done in 0..count {
        let Some(place) = cluster.network.iter().position(|p| p.from() == from && p.to() == to) else {
            if all { break } else { return Err(format!("only {done} messages are on their way")) }
        };
        let packet = cluster.network.remove(place);
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

fn roles(cluster: &Cluster) -> Vec<String> {
    let role = |id: usize| match &cluster.replica(id).raft {
        None if cluster.replica(id).exists => format!("{id} is down"),
        None => format!("{id} is not created"),
        Some(raft) => {
            let role = match raft.role() {
                Role::Follower => "follows",
                Role::PreCandidate => "asks for pre-votes",
                Role::Candidate => "asks for votes",
                Role::Leader => "leads",
            };
            let whom = match raft.leader() {
                Some(leader) if raft.role() == Role::Follower => format!(" {}", leader.replica),
                None if raft.role() == Role::Follower => " nobody".to_owned(),
                _ => String::new(),
            };
            format!("{id} {role}{whom} in term {}", raft.term())
        }
    };
    cluster.ids().map(role).collect()
}

fn status(cluster: &Cluster) -> Vec<String> {
    let mut lines = roles(cluster);
    for (line, id) in lines.iter_mut().zip(cluster.ids()) {
        if let Some(raft) = &cluster.replica(id).raft {
            let (last, durable) = (crate::packet::position(raft.last()), raft.durable());
            let _ = write!(line, ", last {last} durable {durable} commit {} applied {}", raft.commit(), raft.applied());
        }
    }
    lines
}

fn logs(cluster: &Cluster) -> Vec<String> {
    let log = |id: usize| {
        let raft = cluster.replica(id).raft.as_ref()?;
        Some(format!("{id} [{}]", list(raft.entries(LogIndex(1), raft.last().index))))
    };
    cluster.ids().filter_map(log).collect()
}

fn membership(cluster: &Cluster) -> Vec<String> {
    let of = |id: usize| {
        let raft = cluster.replica(id).raft.as_ref()?;
        Some(format!("{id}: {} since {}", members(raft.configuration()), raft.configuration_index()))
    };
    cluster.ids().filter_map(of).collect()
}

/// `1,2,3`; nothing for an empty text.
fn ids(text: &str) -> Result<Vec<usize>, String> {
    let id = |word: &str| word.parse().map_err(|_| format!("{word} is no replica"));
    text.split(',').filter(|word| !word.is_empty()).map(id).collect()
}

fn number<T: std::str::FromStr>(words: &[&str], place: usize) -> Result<T, String> {
    let word = words.get(place).ok_or("a number is missing")?;
    word.parse().map_err(|_| format!("{word} is no number"))
}
