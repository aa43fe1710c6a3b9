//! The reachability states of one neighbour (RFC 1122, section 2.3.2; states and timings of NetBSD's nd.c).
//!
//! ```text
//!  resolve         answer              reachable_ns            a packet is sent
//! ---------> Incomplete ---> Reachable ------------> Stale --------------------> Delay
//!                 |  no answer   ^  ^                                             | delay_ns
//!                 v              |  +------------------- answer ------------------+
//!               gone             +------ answer ------ Probe <--------------------+
//!                                                        | no answer: gone
//! ```

use smpnet_abi::MacAddr;

/// One second.
pub(crate) const SECOND: u64 = 1_000_000_000;

/// Timings; the sysctls under `net.inet.arp`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timings {
    /// Between the first use of a stale entry and the first probe.
    pub delay_ns: u64,
    /// Between requests.
    pub retrans_ns: u64,
    /// How long an answer is good for, before the random factor 0.5 to 1.5.
    pub reachable_ns: u64,
    /// How long an unused stale entry is kept.
    pub keep_ns: u64,
    /// Broadcast requests.
    pub broadcast_tries: u8,
    /// Unicast probes.
    pub unicast_tries: u8,
}

impl Default for Timings {
    fn default() -> Self {
        Timings {
            delay_ns: 5 * SECOND,
            retrans_ns: SECOND,
            reachable_ns: 30 * SECOND,
            keep_ns: 1200 * SECOND,
            broadcast_tries: 3,
            unicast_tries: 3,
        }
    }
}

/// State of a neighbour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// Asked for by broadcast, no answer yet.
    Incomplete,
    /// Answered lately.
    Reachable,
    /// Answered once; used as it is until someone uses it.
    Stale,
    /// Used while stale; a proof of life from above or from the link may still come by itself.
    Delay,
    /// Asked for by unicast.
    Probe,
    /// Entered by the operator.
    Permanent,
}

impl State {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            State::Incomplete => "incomplete",
            State::Reachable => "reachable",
            State::Stale => "stale",
            State::Delay => "delay",
            State::Probe => "probe",
            State::Permanent => "permanent",
        }
    }
}

/// A neighbour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Neighbour {
    pub state: State,
    pub mac: MacAddr,
    /// When [`Event::Timer`] is due.
    pub deadline: Option<u64>,
    tries: u8,
}

/// What happens to a neighbour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// A worker sent to a stale entry.
    Used,
    /// An ARP packet of the neighbour's told its address.
    Heard(MacAddr),
    /// The deadline has come.
    Timer,
}

/// What is to be done about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Nothing,
    /// The state changed so that workers must see it; nothing is sent.
    Publish,
    /// Ask by broadcast.
    AskAll,
    /// Ask this one station.
    AskOne(MacAddr),
    /// The entry is gone: what waits for it fails.
    Gone,
}

impl Neighbour {
    /// A neighbour that is asked for now, by [`Action::AskAll`].
    pub(crate) fn resolve(now: u64, t: &Timings) -> Self {
        Neighbour { state: State::Incomplete, mac: MacAddr::default(), deadline: Some(now + t.retrans_ns), tries: 1 }
    }

    /// A neighbour that was heard of before anyone asked.
    pub(crate) fn heard(now: u64, t: &Timings, mac: MacAddr) -> Self {
        Neighbour { state: State::Stale, mac, deadline: Some(now + t.keep_ns), tries: 0 }
    }

    /// A neighbour that the operator entered.
    pub(crate) fn permanent(mac: MacAddr) -> Self {
        Neighbour { state: State::Permanent, mac, deadline: None, tries: 0 }
    }

    /// Takes an event. `random` is a fresh random number.
    pub(crate) fn step(&mut self, now: u64, event: Event, t: &Timings, random: u64) -> Action {
        match (self.state, event) {
            (State::Permanent, _) => Action::Nothing,
            (_, Event::Heard(mac)) => {
                let news = self.mac != mac || self.state != State::Reachable;
                self.state = State::Reachable;
                self.mac = mac;
                self.tries = 0;
                // Uniform over 0.5 to 1.5 of the base, so that neighbours learnt together are not probed together.
                let base = t.reachable_ns.max(2);
                self.deadline = Some(now + base / 2 + random % base);
                if news { Action::Publish } else { Action::Nothing }
            }
            (State::Stale, Event::Used) => {
                self.state = State::Delay;
                self.deadline = Some(now + t.delay_ns);
                Action::Publish
            }
            (_, Event::Used) => Action::Nothing,
            (_, Event::Timer) if self.deadline.is_none_or(|d| d > now) => Action::Nothing,
            (State::Incomplete, Event::Timer) => {
                if self.tries >= t.broadcast_tries {
                    return Action::Gone;
                }
                self.tries += 1;
                self.deadline = Some(now + t.retrans_ns);
                Action::AskAll
            }
            (State::Reachable, Event::Timer) => {
                self.state = State::Stale;
                self.deadline = Some(now + t.keep_ns);
                Action::Publish
            }
            (State::Stale, Event::Timer) => Action::Gone,
            (State::Delay, Event::Timer) => {
                self.state = State::Probe;
                self.tries = 1;
                self.deadline = Some(now + t.retrans_ns);
                Action::AskOne(self.mac)
            }
            (State::Probe, Event::Timer) => {
                if self.tries >= t.unicast_tries {
                    return Action::Gone;
                }
                self.tries += 1;
                self.deadline = Some(now + t.retrans_ns);
                Action::AskOne(self.mac)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: MacAddr = MacAddr { bytes: [2, 0, 0, 0, 0, 9] };

    #[test]
    fn a_silent_neighbour_is_asked_three_times_and_given_up() {
        let t = Timings::default();
        let mut n = Neighbour::resolve(0, &t);
        assert_eq!(n.step(SECOND / 2, Event::Timer, &t, 0), Action::Nothing, "before the deadline nothing happens");
        assert_eq!(n.step(SECOND, Event::Timer, &t, 0), Action::AskAll);
        assert_eq!(n.step(2 * SECOND, Event::Timer, &t, 0), Action::AskAll);
        assert_eq!(n.step(3 * SECOND, Event::Timer, &t, 0), Action::Gone);
    }

    #[test]
    fn an_answer_is_good_for_15_to_45_seconds() {
        let t = Timings::default();
        for random in [0, 1, t.reachable_ns - 1, u64::MAX] {
            let mut n = Neighbour::resolve(0, &t);
            assert_eq!(n.step(0, Event::Heard(MAC), &t, random), Action::Publish);
            assert_eq!((n.state, n.mac), (State::Reachable, MAC));
            let d = n.deadline.unwrap();
            assert!((15 * SECOND..45 * SECOND).contains(&d), "{d}");
            assert_eq!(n.step(d, Event::Timer, &t, 0), Action::Publish);
            assert_eq!(n.state, State::Stale);
        }
    }

    #[test]
    fn a_used_stale_neighbour_is_probed_after_five_seconds_and_given_up_after_three_probes() {
        let t = Timings::default();
        let mut n = Neighbour::heard(0, &t, MAC);
        assert_eq!(n.step(0, Event::Used, &t, 0), Action::Publish);
        assert_eq!(n.state, State::Delay);
        assert_eq!(n.step(0, Event::Used, &t, 0), Action::Nothing, "one use is enough");
        for s in 5..8 {
            assert_eq!(n.step(s * SECOND, Event::Timer, &t, 0), Action::AskOne(MAC));
            assert_eq!(n.state, State::Probe);
        }
        let mut answered = n;
        assert_eq!(answered.step(8 * SECOND, Event::Heard(MAC), &t, 0), Action::Publish);
        assert_eq!(answered.state, State::Reachable);
        assert_eq!(n.step(8 * SECOND, Event::Timer, &t, 0), Action::Gone);
    }

    #[test]
    fn a_neighbour_that_moves_is_followed_but_a_permanent_one_is_not() {
        let t = Timings::default();
        let other = MacAddr { bytes: [2, 0, 0, 0, 0, 10] };
        let mut n = Neighbour::heard(0, &t, MAC);
        n.step(0, Event::Heard(MAC), &t, 0);
        assert_eq!(n.step(0, Event::Heard(MAC), &t, 0), Action::Nothing);
        assert_eq!(n.step(0, Event::Heard(other), &t, 0), Action::Publish);
        assert_eq!(n.mac, other);
        let mut p = Neighbour::permanent(MAC);
        assert_eq!(p.step(0, Event::Heard(other), &t, 0), Action::Nothing);
        assert_eq!(p.step(u64::MAX, Event::Timer, &t, 0), Action::Nothing);
        assert_eq!(p.mac, MAC);
    }
}
