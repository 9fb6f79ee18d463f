//! Three nodes, one of which has a disk that begins to fail.
//!
//! What must hold: that node's log latches and acknowledges nothing more, the other two lead its groups, and values are
//! acknowledged by way of them.

use crate::Broken;
use crate::load::Load;
use crate::random::Random;
use raftyard::GroupId;
use std::fs::File;
use std::path::Path;
use std::time::Duration;

/// Acknowledged before the disk fails, in every group.
const BEFORE: u64 = 20;
/// Acknowledged after it failed, in every group that other nodes hold.
const AFTER: u64 = 20;
/// When the disk fails at the latest, after that.
const FAILS_AFTER_MS_MAX: u32 = 1500;
/// How long the rig's own steps may take.
const RIG_WITHIN: Duration = Duration::from_secs(60);
/// How long the log may take until a write meets the error.
const LATCHES_WITHIN: Duration = Duration::from_secs(20);
/// How long the other nodes may take until all groups serve.
const MOVES_WITHIN: Duration = Duration::from_secs(5);
/// How long the load goes on then.
const GOES_ON: Duration = Duration::from_secs(1);

pub(crate) fn run(load: &Load, trigger: &Path, seed: u64) -> Result<String, Broken> {
    let (shared, lone): (Vec<GroupId>, Vec<GroupId>) =
        load.nodes.groups().iter().partition(|group| load.nodes.hosts_of(**group) > 1);
    if load.wait_for_more(&load.nodes.groups(), BEFORE, RIG_WITHIN).is_none() {
        return Err(format!("the rig: nothing to break the disk under; others: {}", load.refusals()));
    }
    // At any place of a segment, and in any step of the next one's making.
    std::thread::sleep(Duration::from_millis(Random::new(seed).below(FAILS_AFTER_MS_MAX).into()));
    let led = led_by_first(load, &shared);
    if led == 0 {
        return Err("the rig: the node whose disk is to fail leads nothing".to_owned());
    }
    File::create(trigger).map_err(|error| format!("the rig: {}: {error}", trigger.display()))?;
    let latched = load
        .wait_for(LATCHES_WITHIN, Load::log_failed)
        .ok_or_else(|| format!("the disk fails and the log has not; others: {}", load.refusals()))?;
    let moved = load.wait_for_more(&shared, AFTER, MOVES_WITHIN).ok_or_else(|| {
        format!("not every group serves by the other nodes after {} s; {}", MOVES_WITHIN.as_secs(), load.refusals())
    })?;
    let lone_before = lone.iter().map(|group| load.acknowledged_in(*group)).sum::<u64>();
    std::thread::sleep(GOES_ON);
    let lone_after = lone.iter().map(|group| load.acknowledged_in(*group)).sum::<u64>();
    if load.acknowledged_after() > 0 || lone_after > lone_before {
        let after = load.acknowledged_after().max(lone_after - lone_before);
        return Err(format!("{after} values were acknowledged by a node whose log had failed"));
    }
    if led_by_first(load, &shared) > 0 {
        return Err("the node whose log failed still leads".to_owned());
    }
    Ok(format!(
        "led_before={led} latched_ms={} moved_ms={} acknowledged={} others: {}",
        latched.as_millis(),
        moved.as_millis(),
        load.acknowledged(),
        load.refusals()
    ))
}

/// How many groups have their leader on the first node, as that node tells.
fn led_by_first(load: &Load, groups: &[GroupId]) -> usize {
    let leads = |group: &&GroupId| {
        let status = load.nodes.group(0, **group).status().wait();
        status.is_ok_and(|status| status.role == raftyard::RoleName::Leader)
    };
    groups.iter().filter(leads).count()
}
