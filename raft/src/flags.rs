//! What is yes or no of a replica. In the bits of one byte, because a node hosts many that are idle.

/// One yes or no.
#[derive(Clone, Copy, Debug)]
#[repr(u8)]
pub(crate) enum Flag {
    /// Term or vote changed since they were handed out.
    HardChanged = 1 << 0,
    /// A snapshot took the log's place since it was handed out.
    Reset = 1 << 1,
    /// `accepted` is owed to this term's leader.
    AcceptedOwed = 1 << 2,
    /// This term's leader is owed an answer to its heartbeat.
    HeartbeatOwed = 1 << 3,
    /// It campaigns because its leader asked for it.
    Transfer = 1 << 4,
    /// It was told that it is no member any more, and campaigns no more until a leader speaks to it.
    Quiet = 1 << 5,
    /// It led and could commit nothing: it lets others try first.
    SitsOut = 1 << 6,
}

/// All of them.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Flags(u8);

impl Flags {
    pub(crate) const fn has(self, flag: Flag) -> bool {
        self.0 & flag as u8 != 0
    }

    pub(crate) const fn raise(&mut self, flag: Flag) {
        self.0 |= flag as u8;
    }

    pub(crate) const fn lower(&mut self, flag: Flag) {
        self.0 &= !(flag as u8);
    }

    /// Lowers it; says whether it was raised.
    pub(crate) const fn take(&mut self, flag: Flag) -> bool {
        let raised = self.has(flag);
        self.lower(flag);
        raised
    }
}
