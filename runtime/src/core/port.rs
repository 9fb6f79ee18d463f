//! What goes into a core and what comes out of it. A driver (glommio's, or the simulator) moves these values and does
//! nothing else.

use crate::mail::{Answer, Mail};
use raftyard_raft::NodeId;
use raftyard_storage::io::{IoId, IoOp, IoResult};
use std::collections::VecDeque;
use std::fmt;

/// A core of a node, counted from 0. Its replication socket listens on the node's replicate port plus this number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CoreId(pub u16);

/// One connection of this core, named once and never again. A connection carries frames one way: from the core that
/// dialled it to the one that accepted it; only the handshake's answer goes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkId(u64);

impl LinkId {
    /// The `n`-th connection this core dialled; the core numbers them.
    #[must_use]
    pub const fn dialled(n: u64) -> LinkId {
        LinkId(n << 1)
    }

    /// The `n`-th connection this core accepted; the driver numbers them.
    #[must_use]
    pub const fn accepted(n: u64) -> LinkId {
        LinkId(n << 1 | 1)
    }

    /// Whether this core accepted it.
    #[must_use]
    pub const fn is_accepted(self) -> bool {
        self.0 & 1 == 1
    }
}

impl fmt::Display for LinkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let side = if self.is_accepted() { "in" } else { "out" };
        write!(f, "{side}-{}", self.0 >> 1)
    }
}

/// Something that happened.
#[derive(Debug)]
pub enum Input<'a> {
    /// A command from another thread.
    Mail(Mail),
    /// A dialled connection stands, or one was accepted.
    LinkUp(LinkId),
    /// Bytes came in. The core copies what it keeps.
    Bytes {
        /// Where.
        link: LinkId,
        /// Any number of them, cut anywhere.
        bytes: &'a [u8],
    },
    /// The buffer of the last [`Output::Send`] of this link is with the kernel; it comes back to be filled again.
    Sent {
        /// Where.
        link: LinkId,
        /// The buffer.
        buffer: Vec<u8>,
    },
    /// The connection ended, by whichever side, or the dial failed. Nothing of this link follows.
    LinkDown(LinkId),
    /// A disk operation ended. Completions may come in any order.
    IoDone {
        /// Which.
        id: IoId,
        /// How.
        result: IoResult,
    },
    /// Time passed: `now` is at or after what [`next_deadline`](crate::Core::next_deadline) said. Early is harmless.
    Deadline,
}

/// Something to be done.
#[derive(Debug)]
pub enum Output {
    /// Submit a disk operation; answer with [`Input::IoDone`].
    Io {
        /// Names it.
        id: IoId,
        /// The operation.
        op: IoOp,
    },
    /// Connect to that core of that node; answer with [`Input::LinkUp`] or [`Input::LinkDown`].
    Dial {
        /// The name of the connection to be.
        link: LinkId,
        /// The node.
        node: NodeId,
        /// Its core.
        core: CoreId,
    },
    /// Write the whole buffer to the connection, then answer with [`Input::Sent`]. At most one a link is under way.
    Send {
        /// Where.
        link: LinkId,
        /// What.
        buffer: Vec<u8>,
    },
    /// Close the connection once what was sent before is written. No answer is owed; a late one is ignored.
    Close(LinkId),
    /// Give an answer to whoever waits for it: call [`Answer::deliver`].
    Answer(Answer),
    /// Tell the operator (log), and stop the node if [`Notice::is_fatal`].
    Notice(Notice),
}

/// An answer goes out like everything else.
impl Extend<Answer> for VecDeque<Output> {
    fn extend<I: IntoIterator<Item = Answer>>(&mut self, answers: I) {
        self.extend(answers.into_iter().map(Output::Answer));
    }
}

/// Something an operator must know.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Notice {
    /// The core's log failed: it acknowledges nothing more.
    #[error(
        "core {}: the log failed and acknowledges nothing more: {failure}; see to the disk of data_dir, then start this \
         node again", core.0
    )]
    WalFailed {
        /// The core.
        core: CoreId,
        /// What failed, naming the file.
        failure: String,
    },
    /// A peer was refused, or refused us; the text says what to do.
    #[error("{0}")]
    Refused(String),
}

impl Notice {
    /// Whether the node can't serve on after this. A failed log is not fatal by itself: its groups have stepped down
    /// and every answer says so.
    #[must_use]
    pub fn is_fatal(&self) -> bool {
        false
    }
}
