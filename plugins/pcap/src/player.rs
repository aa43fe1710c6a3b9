//! Which packet of a capture is due: pure arithmetic over times that come from outside.

use crate::{
    file::{Capture, Entry},
    options::Timing,
};

/// Plays a capture from its first packet to its last, as often as asked.
pub struct Player {
    timing: Timing,
    /// Rounds still to play after this one; `None` for ever.
    rounds: Option<u32>,
    next: usize,
    /// When the first packet of this round was due.
    began_ns: Option<u64>,
}

/// What the player says of the next packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// This one is due now.
    Due(Entry),
    /// The next one is due then.
    At(u64),
    /// There are no more.
    End,
}

impl Player {
    /// Plays `repeat` times; 0 for ever.
    pub fn new(timing: Timing, repeat: u32) -> Self {
        Player { timing, rounds: repeat.checked_sub(1), next: 0, began_ns: None }
    }

    /// The next packet of `capture` at the time `now_ns`. A packet that is due counts as played.
    pub fn next(&mut self, capture: &Capture, now_ns: u64) -> Next {
        let next = self.peek(capture, now_ns);
        if matches!(next, Next::Due(_)) {
            self.next += 1;
        }
        next
    }

    /// As `next`, but nothing counts as played.
    pub fn peek(&mut self, capture: &Capture, now_ns: u64) -> Next {
        let entries = &capture.entries;
        let Some(first) = entries.first() else { return Next::End };
        let Some(entry) = entries.get(self.next) else {
            match &mut self.rounds {
                Some(0) => return Next::End,
                Some(rounds) => *rounds -= 1,
                None => {}
            }
            // The next round begins now: what came after the last packet is unknown.
            (self.next, self.began_ns) = (0, Some(now_ns));
            return self.peek(capture, now_ns);
        };
        if self.timing == Timing::Fast {
            return Next::Due(*entry);
        }
        let began = *self.began_ns.get_or_insert(now_ns);
        // A capture whose clock went back plays that packet at once.
        let due = began.saturating_add(entry.time_ns.saturating_sub(first.time_ns));
        if due <= now_ns { Next::Due(*entry) } else { Next::At(due) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{file::Link, writer::Writer};
    use std::time::Duration;

    fn capture(times_ns: &[u64]) -> Capture {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.pcapng");
        let mut w = Writer::create(&path, Link::Ethernet, "x").unwrap();
        for t in times_ns {
            w.packet(Duration::from_nanos(*t), &[0; 60]).unwrap();
        }
        w.flush().unwrap();
        Capture::read(&path).unwrap()
    }

    #[test]
    fn packets_keep_their_distance() {
        let c = capture(&[1_000, 1_500, 1_400, 4_000]);
        let mut p = Player::new(Timing::Original, 1);
        assert_eq!(p.next(&c, 100), Next::Due(c.entries[0]));
        assert_eq!(p.next(&c, 100), Next::At(600));
        assert_eq!(p.next(&c, 600), Next::Due(c.entries[1]));
        assert_eq!(p.next(&c, 600), Next::Due(c.entries[2]), "the clock of the capture went back");
        assert_eq!(p.peek(&c, 3_099), Next::At(3_100));
        assert_eq!(p.next(&c, 3_100), Next::Due(c.entries[3]));
        assert_eq!(p.next(&c, 9_999), Next::End);
    }

    #[test]
    fn a_fast_player_repeats_as_often_as_asked() {
        let c = capture(&[0, 1_000_000]);
        let mut p = Player::new(Timing::Fast, 3);
        let played = std::iter::from_fn(|| matches!(p.next(&c, 5), Next::Due(_)).then_some(())).count();
        assert_eq!(played, 6);
    }

    #[test]
    fn an_endless_player_begins_each_round_anew() {
        let c = capture(&[10, 20]);
        let mut p = Player::new(Timing::Original, 0);
        assert_eq!(p.next(&c, 0), Next::Due(c.entries[0]));
        assert_eq!(p.next(&c, 10), Next::Due(c.entries[1]));
        assert_eq!(p.next(&c, 50), Next::Due(c.entries[0]));
        assert_eq!(p.next(&c, 50), Next::At(60));
    }

    #[test]
    fn an_empty_capture_is_at_its_end() {
        assert_eq!(Player::new(Timing::Fast, 0).next(&capture(&[]), 0), Next::End);
    }
}
