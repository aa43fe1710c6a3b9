//! A line that loses packets, for laboratories: a filter that drops one in so many, or each with a probability.
//!
//! It is also the shortest example of [`Filter`]: a filter makes itself out of its options and says of each packet of a
//! burst whether it goes on.

use smpnet_plugin::serde::Deserialize;
use smpnet_plugin::{Direction, Error, Filter, FilterRequest, Host, Judged, Worker, serde_json};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// The options of the filter: `one_in` or `probability`.
#[derive(Clone, Debug, Deserialize)]
#[serde(crate = "smpnet_plugin::serde", deny_unknown_fields)]
struct Options {
    /// Every so many-th packet of each worker is lost.
    one_in: Option<u64>,
    /// Each packet is lost with this probability, from 0 to 1.
    probability: Option<f64>,
    /// Where the dice start, so that a run can be repeated: packets in the same order meet the same fate.
    #[serde(default)]
    seed: u64,
    /// Instead of being lost, packets pass with this mark.
    mark: Option<u32>,
}

/// The filter.
pub(crate) struct Loss {
    fate: Fate,
    mark: Option<u32>,
    lanes: Vec<Lane>,
}

/// What decides.
enum Fate {
    OneIn(u64),
    /// Of 2^64 equally likely numbers, those below this.
    Below(u64),
}

/// What belongs to one worker, on a cache line of its own: only that worker writes it.
#[repr(align(128))]
struct Lane {
    /// Packets seen, or the state of the dice.
    state: AtomicU64,
    seen: AtomicU64,
    hit: AtomicU64,
}

impl Filter for Loss {
    const NAME: &'static str = "loss";
    const SUMMARY: &'static str = "loses one packet in so many, or each with a probability";

    fn create(_host: Host, req: &FilterRequest<'_>) -> Result<Self, Error> {
        let options: Options = req.parse()?;
        let fate = match (options.one_in, options.probability) {
            (Some(n), None) if n > 0 => Fate::OneIn(n),
            (None, Some(p)) if (0.0..=1.0).contains(&p) => Fate::Below((p * u64::MAX as f64) as u64),
            (Some(_), None) => return Err("one_in must be 1 or more".into()),
            (None, Some(p)) => return Err(format!("probability {p} is not from 0 to 1").into()),
            _ => return Err("needs \"one_in\" or \"probability\", one of them".into()),
        };
        let lane = |worker: usize| Lane {
            state: AtomicU64::new(match fate {
                Fate::OneIn(n) => options.seed % n,
                Fate::Below(_) => options.seed ^ (worker as u64) << 32,
            }),
            seen: AtomicU64::new(0),
            hit: AtomicU64::new(0),
        };
        let lanes = (0..req.workers).map(lane).collect();
        Ok(Loss { fate, mark: options.mark, lanes })
    }

    fn filter(&self, cx: &mut Worker<'_>, _ifindex: u32, _direction: Direction, packets: &mut Judged<'_>) {
        let Some(lane) = self.lanes.get(cx.index()) else { return };
        let (mut state, mut hit) = (lane.state.load(Relaxed), 0);
        for i in 0..packets.len() {
            if !self.fate.meets(&mut state) {
                continue;
            }
            hit += 1;
            match self.mark {
                None => packets.drop(i),
                Some(mark) => {
                    if let Some(packet) = packets.get_mut(i) {
                        packet.hdr_mut().mark = mark;
                    }
                }
            }
        }
        lane.state.store(state, Relaxed);
        crate::add(&lane.seen, packets.len());
        crate::add(&lane.hit, hit);
    }

    fn status(&self) -> serde_json::Value {
        let sum = |of: fn(&Lane) -> &AtomicU64| self.lanes.iter().map(|l| of(l).load(Relaxed)).sum::<u64>();
        let what = if self.mark.is_some() { "marked" } else { "lost" };
        serde_json::json!({ "seen": sum(|l| &l.seen), what: sum(|l| &l.hit) })
    }
}

impl Fate {
    /// Whether it is the next packet's turn.
    fn meets(&self, state: &mut u64) -> bool {
        match *self {
            Fate::OneIn(n) => {
                *state += 1;
                if *state >= n {
                    *state = 0;
                }
                *state == 0
            }
            Fate::Below(limit) => {
                // splitmix64 (Steele, Lea and Flood, 2014): a counter and a mixer.
                *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
                let mut z = *state;
                z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
                z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
                // A limit of all ones is certainty, which "below" is not quite.
                (z ^ (z >> 31)) < limit || limit == u64::MAX
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use smpnet_plugin::serde_json::json;
    use smpnet_plugin::{Burst, testing};

    fn loss(options: serde_json::Value) -> Result<Loss, Error> {
        Loss::create(testing::host(), &FilterRequest { name: "line", options, workers: 2 })
    }

    /// The fates of `n` packets of a worker: the mark of each that passed.
    fn fates(loss: &Loss, worker: u32, n: usize) -> Vec<Option<u32>> {
        let mut burst = Burst::new();
        for _ in 0..n {
            burst.push(testing::packet(b"x")).unwrap();
        }
        let said = testing::judge(worker, &mut burst, |cx, packets| loss.filter(cx, 1, Direction::In, packets));
        let mut left = burst.iter().map(|packet| packet.hdr().mark);
        said.into_iter().map(|v| (v == testing::Verdict::Pass).then(|| left.next().unwrap())).collect()
    }

    #[test]
    fn one_in_three_is_lost_by_each_worker() {
        let loss = loss(json!({ "one_in": 3 })).unwrap();
        let pass = Some(0);
        assert_eq!(fates(&loss, 0, 7), [pass, pass, None, pass, pass, None, pass]);
        assert_eq!(fates(&loss, 1, 2), [pass, pass]);
        assert_eq!(fates(&loss, 0, 2), [pass, None], "it counts on over bursts");
        assert_eq!(loss.status(), json!({ "seen": 11, "lost": 3 }));
        assert_eq!(testing::outstanding(), 0);
    }

    #[test]
    fn a_probability_is_kept_and_a_seed_repeats_the_run() {
        let run = |p: f64, seed: u64| {
            let loss = loss(json!({ "probability": p, "seed": seed })).unwrap();
            (0..100).flat_map(|_| fates(&loss, 0, 64)).map(|f| f.is_none()).collect::<Vec<_>>()
        };
        let lost = |run: &[bool]| run.iter().filter(|l| **l).count();
        assert!((1280..1920).contains(&lost(&run(0.25, 7))), "{}", lost(&run(0.25, 7)));
        assert_eq!(run(0.25, 7), run(0.25, 7));
        assert_ne!(run(0.25, 7), run(0.25, 8));
        assert_eq!((lost(&run(0.0, 1)), lost(&run(1.0, 1))), (0, 6400));
    }

    #[test]
    fn with_a_mark_nothing_is_lost() {
        let loss = loss(json!({ "one_in": 2, "mark": 9 })).unwrap();
        assert_eq!(fates(&loss, 0, 4), [Some(0), Some(9), Some(0), Some(9)]);
        assert_eq!(loss.status(), json!({ "seen": 4, "marked": 2 }));
    }

    #[test]
    fn options_that_say_nothing_or_too_much_are_refused() {
        let says = |options| loss(options).err().unwrap().to_string();
        assert!(says(json!({})).contains("one of them"));
        assert!(says(json!({ "one_in": 2, "probability": 0.5 })).contains("one of them"));
        assert!(says(json!({ "one_in": 0 })).contains("1 or more"));
        assert!(says(json!({ "probability": 1.5 })).contains("from 0 to 1"));
        assert!(says(json!({ "onein": 2 })).contains("onein"));
    }
}
