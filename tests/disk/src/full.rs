//! A disk that fills up while a node writes, and has room again later.
//!
//! What must hold: values are refused as `DiskFull`, the log doesn't fail, reads go on, and when there is room again the
//! node serves again by itself.

use crate::load::Load;
use crate::random::Random;
use crate::{Broken, Place};
use rustix::fs::{FallocateFlags, fallocate, statvfs};
use std::fs::File;
use std::io;
use std::path::Path;
use std::time::Duration;

/// How a refusal for want of space is called.
const DISK_FULL: &str = "DiskFull";

/// Acknowledged before the disk is filled, in every group.
const BEFORE: u64 = 20;
/// Acknowledged after there is room again, in every group.
const AFTER: u64 = 20;
/// How long the rig's own steps may take.
const RIG_WITHIN: Duration = Duration::from_secs(60);
/// What the filler leaves at most, for the log to eat.
const LEFT_BYTES_MAX: u32 = 4 << 20;
/// How long the disk stays full.
const STAYS_FULL: Duration = Duration::from_secs(2);
/// How long the node may take to serve again.
const RESUMES_WITHIN: Duration = Duration::from_secs(15);

pub(crate) fn run(load: &Load, filler: &Path, place: &Place) -> Result<String, Broken> {
    let groups = load.nodes.groups();
    if load.wait_for_more(&groups, BEFORE, RIG_WITHIN).is_none() {
        return Err(format!("the rig: nothing to fill the disk under; others: {}", load.refusals()));
    }
    let left = Random::new(place.seed).below(LEFT_BYTES_MAX);
    let filled = fill(filler, u64::from(left)).map_err(|error| format!("the rig: {}: {error}", filler.display()))?;
    let full_after = load
        .wait_for(RIG_WITHIN, |load| load.refused_as(DISK_FULL) > 0 || load.log_failed())
        .ok_or_else(|| format!("the disk is full and nothing is refused; others: {}", load.refusals()))?;
    judge_log(load)?;

    let acknowledged_before = load.acknowledged();
    std::thread::sleep(STAYS_FULL);
    let trickled = load.acknowledged() - acknowledged_before;
    let read = load.read_all();
    judge_log(load)?;
    if read < groups.len() {
        return Err(format!("{read} of {} groups answered a read while the disk was full", groups.len()));
    }
    let refused = load.refused_as(DISK_FULL);

    std::fs::remove_file(filler).map_err(|error| format!("the rig: {}: {error}", filler.display()))?;
    let resumed = load.wait_for_more(&groups, AFTER, RESUMES_WITHIN);
    judge_log(load)?;
    let resumed = resumed.ok_or_else(|| {
        format!("not every group serves {} s after there was room again; {}", RESUMES_WITHIN.as_secs(), load.refusals())
    })?;
    Ok(format!(
        "filled={filled} full_after_ms={} refused_disk_full={refused} trickled={trickled} read={read} resumed_ms={} \
         acknowledged={} others: {}",
        full_after.as_millis(),
        resumed.as_millis(),
        load.acknowledged(),
        load.refusals()
    ))
}

fn judge_log(load: &Load) -> Result<(), Broken> {
    if !load.log_failed() {
        return Ok(());
    }
    let full = load.refused_as(DISK_FULL);
    Err(format!("the log failed on a full disk; refused as {DISK_FULL}: {full}; others: {}", load.refusals()))
}

/// Takes all of the disk's space but `left` bytes. Returns how much that was.
fn fill(filler: &Path, left: u64) -> io::Result<u64> {
    let file = File::create(filler)?;
    let mut filled = 0;
    // The log takes space at the same time, so it goes in ever smaller steps.
    loop {
        let free = statvfs(filler)?;
        let step = ((free.f_bavail * free.f_frsize).saturating_sub(left) / 2).next_multiple_of(4096);
        if step <= 4096 {
            return Ok(filled);
        }
        match fallocate(&file, FallocateFlags::empty(), filled, step) {
            Ok(()) => filled += step,
            Err(rustix::io::Errno::NOSPC) => return Ok(filled),
            Err(error) => return Err(error.into()),
        }
    }
}
