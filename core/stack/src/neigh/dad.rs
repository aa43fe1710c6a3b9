//! Duplicate address detection and announcement of one address (RFC 5227).

use super::machine::SECOND;

/// Between the last probe and the use of the address (ANNOUNCE_WAIT).
const ANNOUNCE_WAIT: u64 = 2 * SECOND;
/// Between announcements (ANNOUNCE_INTERVAL).
const ANNOUNCE_INTERVAL: u64 = 2 * SECOND;
/// Announcements after probing (ANNOUNCE_NUM).
const ANNOUNCE_NUM: u32 = 2;

/// Progress of one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Dad {
    probes: u32,
    announcements: u32,
    using: bool,
    /// When [`Dad::step`] is due; none when there is nothing more to do.
    pub deadline: Option<u64>,
}

/// What is to be done now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Send a probe: a request for the address with sender 0.0.0.0.
    Probe,
    /// Nobody objected: the address is ours. An announcement follows at once.
    Use,
    /// Send an announcement: a request for the address from the address.
    Announce,
}

impl Dad {
    /// Begins with `probes` probes; with none the address is used at once and announced once.
    pub(crate) fn new(now: u64, probes: u32, random: u64) -> Dad {
        let (announcements, wait) = if probes == 0 { (1, 0) } else { (ANNOUNCE_NUM, random % SECOND) };
        Dad { probes, announcements, using: false, deadline: Some(now + wait) }
    }

    /// What is due at `now`; to be called until it answers none.
    pub(crate) fn step(&mut self, now: u64, random: u64) -> Option<Step> {
        if self.deadline.is_none_or(|d| d > now) {
            return None;
        }
        if self.probes > 0 {
            self.probes -= 1;
            // PROBE_MIN 1 s to PROBE_MAX 2 s between probes.
            self.deadline = Some(now + if self.probes > 0 { SECOND + random % SECOND } else { ANNOUNCE_WAIT });
            return Some(Step::Probe);
        }
        if !self.using {
            self.using = true;
            return Some(Step::Use);
        }
        if self.announcements > 0 {
            self.announcements -= 1;
            self.deadline = (self.announcements > 0).then_some(now + ANNOUNCE_INTERVAL);
            return Some(Step::Announce);
        }
        self.deadline = None;
        None
    }

    /// Whether the address is not ours yet.
    pub(crate) fn tentative(&self) -> bool {
        !self.using
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_probed_three_times_used_and_announced_twice() {
        let mut d = Dad::new(0, 3, SECOND / 2);
        let mut log = Vec::new();
        for tenth in 0..200 {
            let now = tenth * SECOND / 10;
            while let Some(s) = d.step(now, SECOND / 2) {
                log.push((tenth, s));
            }
        }
        let want = [
            (5, Step::Probe),
            (20, Step::Probe),
            (35, Step::Probe),
            (55, Step::Use),
            (55, Step::Announce),
            (75, Step::Announce),
        ];
        assert_eq!(log, want);
        assert!(!d.tentative());
        assert_eq!(d.deadline, None);
    }

    #[test]
    fn without_probes_an_address_is_used_at_once_and_announced_once() {
        let mut d = Dad::new(7, 0, 99);
        assert!(d.tentative());
        assert_eq!(d.step(7, 0), Some(Step::Use));
        assert_eq!(d.step(7, 0), Some(Step::Announce));
        assert_eq!(d.step(7, 0), None);
        assert_eq!(d.deadline, None);
    }
}
