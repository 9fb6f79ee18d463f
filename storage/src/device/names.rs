//! File names as text, both ways.

use crate::io::{FileName, SegmentNumber};
use std::ffi::CString;

pub(super) fn c_name(name: FileName) -> CString {
    CString::new(name.to_string()).expect("names are made of letters, digits, dots and dashes")
}

/// The name this text is, if it is exactly one that this project gives.
pub(super) fn parse(text: &str) -> Option<FileName> {
    let number = |prefix: &str| {
        let digits = text.strip_prefix(prefix)?.strip_suffix(".wal")?;
        digits.parse().ok().map(SegmentNumber)
    };
    let name = match text {
        "manifest" => FileName::Manifest,
        "manifest.new" => FileName::ManifestNew,
        _ => number("segment-").map(FileName::Segment).or_else(|| number("spare-").map(FileName::Spare))?,
    };
    (name.to_string() == text).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_back_and_others_do_not() {
        let known = [
            FileName::Manifest,
            FileName::ManifestNew,
            FileName::Segment(SegmentNumber(7)),
            FileName::Spare(SegmentNumber(u64::MAX)),
        ];
        for name in known {
            assert_eq!(parse(&name.to_string()), Some(name));
        }
        for other in ["lost+found", "segment-7.wal", "segment-+000000000000007.wal", "segment-.wal", "spare", ""] {
            assert_eq!(parse(other), None, "{other}");
        }
    }
}
