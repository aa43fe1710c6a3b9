//! Protocols of which only the addresses and ports are looked at: whether both sides have been heard.

use serde::{Deserialize, Serialize};

/// Where a connection is that is not of TCP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Generic {
    /// It is no more.
    Closed,
    /// Nothing has come back yet.
    New,
    /// Both sides have been heard.
    Established,
}

impl Generic {
    /// Takes a packet into account.
    pub fn inspect(&mut self, forward: bool) {
        *self = match (*self, forward) {
            (Generic::Closed, true) => Generic::New,
            (Generic::New, false) => Generic::Established,
            (same, _) => same,
        };
    }

    /// Its name in listings.
    pub fn name(self) -> &'static str {
        match self {
            Generic::Closed => "CLOSED",
            Generic::New => "NEW",
            Generic::Established => "ESTABLISHED",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_established_when_the_other_side_was_heard() {
        let mut state = Generic::Closed;
        for (forward, after) in [
            (false, Generic::Closed),
            (true, Generic::New),
            (true, Generic::New),
            (false, Generic::Established),
            (true, Generic::Established),
            (false, Generic::Established),
        ] {
            state.inspect(forward);
            assert_eq!(state, after);
        }
    }
}
