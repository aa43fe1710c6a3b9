//! What smpnet's own counters say, and the books over a load: every packet sent is received, filtered, dropped for a
//! named reason, or lost.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;
use smpnet_lab::{Client, Result};

/// smpnet's counters at one moment.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Packets that its ports received.
    pub received: u64,
    /// Packets that its ports sent.
    pub sent: u64,
    /// Drops by reason.
    pub drops: BTreeMap<String, u64>,
    /// Packets that the filter dropped.
    pub filtered: u64,
    /// Packets that the filter judged.
    pub judged: u64,
    /// Packets that smpnet received or made and that went nowhere with a name, by its own books. Packets on their way are
    /// among them: exact only when nothing moves.
    pub missing: i64,
}

impl Snapshot {
    /// Reads the counters of the ports and of `filter`.
    pub fn take(client: &mut Client, filter: &str) -> Result<Snapshot> {
        let mut s = Snapshot::default();
        let interfaces = client.get("/v1/interfaces")?;
        for i in list(&interfaces) {
            if i["attachment"] == "port" {
                s.received += number(&i["counters"]["ipackets"]);
                s.sent += number(&i["counters"]["opackets"]);
                *s.drops.entry("tx_errors".into()).or_default() += number(&i["driver_stats"]["tx_errors"]);
            }
        }
        for d in list(&client.get("/v1/drops")?) {
            *s.drops.entry(d["reason"].as_str().unwrap_or("unspecified").into()).or_default() += number(&d["packets"]);
        }
        let stats = client.get(&format!("/v1/filters/{filter}/stats"))?;
        s.filtered = number(&stats["total"]["dropped"]);
        s.judged = number(&stats["total"]["packets"]);
        s.missing = client.get("/v1/stats")?["accounting"]["missing"].as_i64().unwrap_or(0);
        s.drops.retain(|_, n| *n > 0);
        Ok(s)
    }

    /// What happened since `before`.
    pub fn since(&self, before: &Snapshot) -> Snapshot {
        let mut drops = self.drops.clone();
        for (reason, n) in &before.drops {
            if let Some(d) = drops.get_mut(reason) {
                *d = d.saturating_sub(*n);
            }
        }
        drops.retain(|_, n| *n > 0);
        Snapshot {
            received: self.received.saturating_sub(before.received),
            sent: self.sent.saturating_sub(before.sent),
            drops,
            filtered: self.filtered.saturating_sub(before.filtered),
            judged: self.judged.saturating_sub(before.judged),
            missing: self.missing,
        }
    }
}

/// The elements of an array, or of nothing.
pub fn list(v: &Value) -> &[Value] {
    v.as_array().map_or(&[], Vec::as_slice)
}

/// A number, or 0.
pub fn number(v: &Value) -> u64 {
    v.as_u64().or_else(|| v.as_f64().map(|f| f as u64)).unwrap_or(0)
}

/// The books over a load, in packets.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Books {
    /// Sent by the hosts.
    pub sent: u64,
    /// Received by the other host, each counted once.
    pub forwarded: u64,
    /// Dropped by the filter, by smpnet's count.
    pub filtered: u64,
    /// Dropped by smpnet for other reasons.
    pub dropped: BTreeMap<String, u64>,
    /// Dropped by the hosts' own sockets and links: not smpnet's.
    pub hosts_dropped: u64,
    /// Sent and neither received, filtered nor dropped for any reason.
    pub lost: u64,
    /// Received twice, changed on the way, or more received and filtered than sent.
    pub wrong: u64,
}

impl Books {
    /// Closes the books: what is missing and has no name is lost.
    pub fn close(mut self, drops: &BTreeMap<String, u64>) -> Books {
        // Packets for smpnet itself or for nobody were not sent by our flows; those that the filter took stand apart.
        self.dropped = drops.clone();
        self.dropped.retain(|reason, _| !["filtered", "consumed", "not_for_us", "no_proto"].contains(&reason.as_str()));
        let named: u64 = self.dropped.values().sum::<u64>() + self.hosts_dropped;
        let found = self.forwarded + self.filtered;
        self.lost = self.sent.saturating_sub(found).saturating_sub(named);
        self.wrong += found.saturating_sub(self.sent);
        self
    }

    /// Two sets of books as one.
    pub fn plus(&self, other: &Books) -> Books {
        let mut sum = self.clone();
        sum.sent += other.sent;
        sum.forwarded += other.forwarded;
        sum.filtered += other.filtered;
        sum.hosts_dropped += other.hosts_dropped;
        sum.lost += other.lost;
        sum.wrong += other.wrong;
        for (reason, n) in &other.dropped {
            *sum.dropped.entry(reason.clone()).or_default() += n;
        }
        sum
    }

    /// Packets dropped for named reasons.
    pub fn dropped_sum(&self) -> u64 {
        self.dropped.values().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::Books;
    use std::collections::BTreeMap;

    #[test]
    fn what_is_missing_without_a_name_is_lost() {
        let books = Books { sent: 100, forwarded: 80, filtered: 10, ..Books::default() };
        let drops =
            BTreeMap::from([("ip_ttl".to_string(), 3), ("filtered".to_string(), 10), ("consumed".to_string(), 9)]);
        let closed = books.clone().close(&drops);
        assert_eq!((closed.lost, closed.wrong, closed.dropped_sum()), (7, 0, 3));
        let closed = Books { forwarded: 95, ..books }.close(&BTreeMap::new());
        assert_eq!((closed.lost, closed.wrong), (0, 5));
    }
}
