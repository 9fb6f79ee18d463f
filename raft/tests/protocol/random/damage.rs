//! Entries that leave memory and are read again, and disks that lose what they held: the end of a log, its last writes
//! though others had been made on top of them, or everything. Never so many at a time that no majority is able: there a
//! group would have to wait for an operator.

use super::acts::{crash, restart};
use super::events::Event;
use super::schedule::Schedule;
use raftyard_raft::{
    Body, Configuration, ConfigurationEntry, Entry, EntryKind, Limit, LogIndex, Purpose, Raft, ReplicaId,
};

/// A replica leaves some of its entries to the disk.
pub(crate) fn evict(s: &mut Schedule, id: usize) {
    let most = s.raft(id).expect("it is up").applied().0 as usize;
    let upto = LogIndex(s.dice.below(most + 3) as u64);
    let freed = s.touch(id, |cluster| cluster.raft(id).expect("it is up").evict(upto));
    s.totals.add(Event::Evicted, usize::from(freed > 0));
}

/// Something that a replica wanted to read is there, or can't be read.
pub(crate) fn fetch(s: &mut Schedule) -> Option<usize> {
    let asking: Vec<usize> =
        s.cluster.ids().filter(|id| s.is_awake(*id) && !s.cluster.replica(*id).fetches.is_empty()).collect();
    if asking.is_empty() {
        return None;
    }
    let id = asking[s.dice.below(asking.len())];
    let fetches = &s.cluster.replica(id).fetches;
    let place = s.dice.below(fetches.len());
    let fetch = fetches[place].0;
    if s.dice.below(12) < s.nastiness.min(3) {
        s.touch(id, |cluster| {
            cluster.replicas[id - 1].fetches.remove(place);
            cluster.raft(id).expect("it is up").handle_fetch_failed(fetch);
        });
        s.totals.add(Event::FetchFailed, 1);
        return Some(id);
    }
    let count = if s.dice.once_in(2) { 1 + s.dice.below(3) } else { usize::MAX };
    let before = s.raft(id).map_or(0, Raft::log_bytes);
    let found = s.touch(id, |cluster| cluster.fetched(id, place, count));
    let held = s.raft(id).is_some_and(|raft| raft.log_bytes() > before);
    s.totals.add(if found && held { Event::Fetched } else { Event::FetchedTooLate }, 1);
    s.totals.add(Event::FetchedToApply, usize::from(held && fetch.purpose == Purpose::Apply));
    Some(id)
}

/// A disk loses something.
pub(crate) fn damage(s: &mut Schedule) {
    let Some(id) = s.someone() else { return };
    let nothing_left = s.cluster.replica(id).disk.limit == Limit::Amnesia;
    if !s.damages || nothing_left || !is_able(s, |other| other != id) {
        return;
    }
    let mut applied = crash(s, id);
    let all = s.dice.once_in(6);
    let initial = s.cluster.base_at(LogIndex(0)).configuration;
    let disk = &mut s.cluster.replicas[id - 1].disk;
    if all {
        disk.lose_all(&initial);
        applied = LogIndex(0);
        s.totals.add(Event::LostAll, 1);
    } else {
        let before = disk.entries.len();
        let former = disk.former();
        if s.dice.once_in(2) && former > 0 {
            let replaced = (1..=former).find(|back| disk.replaces(*back));
            let back = 1 + s.dice.below(former);
            disk.lose_writes(replaced.unwrap_or(back));
            let stale = disk.entries.iter().any(|entry| disk.lost.iter().any(|lost| lost.index == entry.index));
            s.totals.add(Event::LostMiddle, usize::from(stale));
        } else {
            disk.lose_after(LogIndex(disk.base.position.index.0 + s.dice.below(before + 1) as u64));
        }
        s.totals.add(Event::LostEntries, 1);
    }
    if let Some(trace) = &mut s.cluster.trace {
        let disk = &s.cluster.replicas[id - 1].disk;
        let kept = crate::packet::list((&disk.entries, &[]));
        trace.push(format!("    the disk of {id} keeps [{kept}] and is limited: {:?}", disk.limit));
    }
    if s.dice.below(3) > 0 {
        restart(s, id, applied);
    }
}

/// Whether in every configuration that may count those are a majority whose disks lost nothing, and whom `among` names.
pub(crate) fn is_able(s: &Schedule, among: impl Fn(usize) -> bool) -> bool {
    let intact = |id: ReplicaId| {
        let id = id.0 as usize;
        among(id) && s.cluster.replica(id).disk.limit == Limit::None
    };
    let able = |configuration: &Configuration| has_quorum(configuration, intact);
    let told = |entry: &Entry| {
        let change = entry.kind == EntryKind::Configuration;
        !change || able(&ConfigurationEntry::decode(&entry.data).expect("an honest entry").configuration)
    };
    let replicas = s.cluster.replicas.iter().filter(|replica| replica.exists).all(|replica| {
        let memory = replica.raft.as_ref().is_none_or(|raft| able(raft.configuration()));
        let disk = able(&replica.disk.base.configuration) && able(&replica.disk.machine.configuration);
        memory && disk && replica.disk.entries.iter().all(told) && replica.log().into_iter().all(told)
    });
    replicas
        && s.cluster.network.iter().all(|packet| match packet.message().body {
            Body::Append { entries: (left, right), .. } => left.iter().chain(right).all(told),
            Body::Snapshot { configuration, .. } => able(configuration),
            _ => true,
        })
}

/// Whether a change may lead to those members.
pub(crate) fn is_bearable(s: &Schedule, next: &Configuration) -> bool {
    has_quorum(next, |id| s.cluster.replica(id.0 as usize).disk.limit == Limit::None)
}

fn has_quorum(configuration: &Configuration, of: impl Fn(ReplicaId) -> bool) -> bool {
    configuration.is_empty() || (configuration.has_quorum(&of) && configuration.left().has_quorum(&of))
}
