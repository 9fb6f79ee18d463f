//! What a scenario plays on: a group that begins with the first command, and what is remembered of it.

use crate::cluster::{Cluster, member, settings};
use crate::disk::Disk;
use crate::packet::Packet;
use crate::{commands, show};
use bytes::Bytes;
use raftyard_raft::{Configuration, Entry, EntryKind, HardState, LogIndex, ReadTicket, ReplicaId, Settings, Term};
use std::time::Duration;

/// What a scenario plays on.
#[derive(Default)]
pub(crate) struct Stage {
    disks: Vec<Option<Disk>>,
    settings: Settings,
    persist: Option<(usize, usize)>,
    apply: Option<usize>,
    cluster: Option<Cluster>,
    /// Reads whose end was not told yet: where, and how they are called.
    reads: Vec<(usize, String, ReadTicket)>,
    /// Messages that are held up.
    held: Vec<Packet>,
    /// Nodes that don't keep their promises over a restart.
    forgetful: Vec<usize>,
}

impl Stage {
    /// Runs one command and says what happened.
    pub(crate) fn run(&mut self, line: &str) -> Result<Vec<String>, String> {
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
            cluster.apply = self.apply.unwrap_or(cluster.apply);
            cluster.trace = Some(Vec::new());
            for id in &self.forgetful {
                cluster.replicas[id - 1].keeps_promises = false;
            }
            cluster
        });
        let before = show::roles(cluster);
        let (quiet, words) = match words.split_first() {
            Some((&"quiet", rest)) if !rest.is_empty() => (true, rest),
            _ => (words[0] == "elect", &words[..]),
        };
        let said = match words[0] {
            "read" => begin_reads(cluster, &words[1..], &mut self.reads)?,
            "hold" => {
                self.held.extend(commands::take(cluster, &words[1..])?.into_iter().map(|(_, packet)| packet));
                Vec::new()
            }
            "release" => {
                let link = words.get(1).ok_or("from->to is wanted")?;
                let of_link = |p: &mut Packet| format!("{}->{}", p.from(), p.to()) == *link;
                cluster.network.extend(self.held.extract_if(.., of_link));
                Vec::new()
            }
            name => commands::command(cluster, name, &words[1..])?,
        };
        let mut output = cluster.trace.as_mut().map(std::mem::take).unwrap_or_default();
        output.extend(said);
        if quiet {
            output.clear();
        }
        for (was, is) in before.into_iter().zip(show::roles(cluster)) {
            if was != is {
                output.push(is);
            }
        }
        self.reads.retain(|(id, name, ticket)| !show::read_ended(cluster, *id, name, ticket, &mut output));
        if output.is_empty() && !quiet {
            output.push("nothing".to_owned());
        }
        Ok(output)
    }

    fn prepare(&mut self, words: &[&str]) -> Result<(), String> {
        let count: usize = commands::number(words, 0)?;
        let (mut voters, mut learners): (Vec<usize>, Vec<usize>) = ((1..=count).collect(), Vec::new());
        self.settings = settings();
        let mut persist = (usize::MAX, usize::MAX);
        for word in &words[1..] {
            let (name, value) = word.split_once('=').ok_or("name=value is wanted")?;
            let number = || value.parse::<usize>().map_err(|_| format!("{value} is no number"));
            let settings = &mut self.settings;
            match name {
                "voters" => voters = commands::ids(value)?,
                "learners" => learners = commands::ids(value)?,
                "append_bytes_max" => settings.append_bytes_max = number()?,
                "inflight_appends_max" => settings.inflight_appends_max = number()?,
                "inflight_bytes_max" => settings.inflight_bytes_max = number()?,
                "uncommitted_bytes_max" => settings.uncommitted_bytes_max = number()?,
                "election_timeout_max" => settings.election_timeout_max = Duration::from_nanos(number()? as u64),
                "forgetful" => self.forgetful = commands::ids(value)?,
                "leases" => settings.leases = value == "yes",
                "drift" => settings.clock_drift_max_ppm = u32::try_from(number()?).map_err(|e| e.to_string())?,
                "write_bytes_max" => persist.0 = number()?,
                "apply_bytes_max" => self.apply = Some(number()?),
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
        let id: usize = commands::number(words, 0)?;
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

fn begin_reads(
    cluster: &mut Cluster,
    words: &[&str],
    reads: &mut Vec<(usize, String, ReadTicket)>,
) -> Result<Vec<String>, String> {
    let id = commands::number(words, 0)?;
    let now = cluster.now;
    let mut refused = Vec::new();
    for name in &words[1..] {
        match cluster.raft(id).ok_or("it is down")?.read_index(now) {
            Ok(ticket) => reads.push((id, (*name).to_owned(), ticket)),
            Err(error) => refused.push(format!("refused: {error}")),
        }
    }
    cluster.turn(id);
    Ok(refused)
}
