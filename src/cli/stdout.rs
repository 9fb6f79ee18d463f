//! Standard output, as a program writes it whose reader may leave early (`| head -1`): that is no failure.

use std::fmt::Display;
use std::io::{self, ErrorKind, Write};

/// Writes something to standard output, at once.
///
/// # Errors
/// What the system said, unless it is that nobody reads any more.
pub(crate) fn say(what: &impl Display) -> io::Result<()> {
    say_to(io::stdout().lock(), what)
}

fn say_to(mut out: impl Write, what: &impl Display) -> io::Result<()> {
    match write!(out, "{what}").and_then(|()| out.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Failing(ErrorKind);

    impl Write for Failing {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(self.0.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_reader_that_left_is_no_failure_and_a_full_disk_is() {
        assert!(say_to(Failing(ErrorKind::BrokenPipe), &"words").is_ok());
        assert!(say_to(Failing(ErrorKind::StorageFull), &"words").is_err());
    }
}
