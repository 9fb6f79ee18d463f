//! Looking at a log: for people and tools, on a directory whose node may be running and writing on.
//!
//! Nothing here changes anything; a [`crate::device::ReadOnlyDisk`] will do. [`inspect`] says how a log stands, [`verify`]
//! reads all of it and says what is damaged and whose, [`dump`] hands out batches and records in order.
//!
//! While a node runs, what is read may end anywhere, a file may become another segment between two reads, and a batch may
//! be whole a moment after it was read as missing. So a complaint counts only when it is had twice.

mod dump;
mod finding;
mod inspect;
mod runs;
mod survey;
mod verify;

pub use dump::{DumpFilter, Dumped, dump};
pub use finding::{Fault, Finding, Verification, VerifyStep};
pub use inspect::{GroupSummary, Inspection, SegmentSummary, inspect};
pub use survey::SegmentState;
pub use verify::verify;

use super::error::{Place, WalError};

/// How often a log that changes under the reader is read again.
const ATTEMPTS_MAX: usize = 10;

/// Reads until there is nothing to complain of, or the same twice. `complaints` takes out what the other reading didn't
/// find, and says whether something is left.
fn settled<T>(
    mut attempt: impl FnMut() -> Result<T, WalError>,
    complaints: impl Fn(&mut T, Option<&T>) -> bool,
) -> Result<T, WalError> {
    let mut before = attempt();
    for again in 0..ATTEMPTS_MAX {
        if before.as_mut().is_ok_and(|found| !complaints(found, None)) {
            return before;
        }
        let mut now = attempt();
        let same = match (&before, &mut now) {
            (Ok(before), Ok(now)) => {
                // Few logs complain twice; what is left then is real.
                complaints(now, Some(before));
                true
            }
            (Err(before), Err(now)) => before == now,
            _ => false,
        };
        if same || again + 1 == ATTEMPTS_MAX {
            return now;
        }
        before = now;
    }
    before
}

/// Whether this is about the reader or the program, and not about what the log holds.
fn is_no_damage(error: &WalError) -> bool {
    matches!(
        error,
        WalError::UnknownVersion { .. } | WalError::Config(_) | WalError::Io { place: Place::Directory(_), .. }
    )
}
