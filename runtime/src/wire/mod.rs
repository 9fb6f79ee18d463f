//! The bytes between two cores: frames, the handshake, and batches of protocol messages. See docs/wire.md for the
//! layout. Everything read here comes from another machine and is hostile until it is parsed.

mod batch;
mod decoder;
mod frame;
mod handshake;
mod snapshot;

pub use batch::{BatchReader, BatchWriter, format_descriptor};
pub use decoder::Decoder;
pub use frame::{Frame, FrameError, FrameKind, HEADER_BYTES, WIRE_VERSION, finish_frame, start_frame};
pub use handshake::{Hello, Purpose, Refusal, Welcome};
pub use snapshot::{Said, SnapshotAnswer, SnapshotBegin, SnapshotChunk, SnapshotEnd, TransferId};
