//! Parameters: `set state.tcp.timeout.new 30`.

/// What there is to say of a parameter.
#[derive(Debug)]
pub struct Param {
    /// Which one.
    pub key: Key,
    /// Its name in `set`.
    pub name: &'static str,
    /// Its value where nothing is set.
    pub default: u32,
    /// The least that is possible.
    pub min: u32,
    /// The most.
    pub max: u32,
    /// What it does, in one line.
    pub about: &'static str,
}

macro_rules! params {
    ($($key:ident $name:literal $default:literal $min:literal $max:literal $about:literal)*) => {
        /// A parameter.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Key {
            $(#[doc = $about] $key,)*
        }

        /// All parameters, in the order of [`Key`].
        pub const PARAMS: &[Param] = &[
            $(Param { key: Key::$key, name: $name, default: $default, min: $min, max: $max, about: $about },)*
        ];
    };
}

params! {
    BpfJit "bpf.jit" 1 0 1 "rules are compiled; taken as on NetBSD, where 0 interprets them, and without effect here"
    Ip4Reassembly "ip4.reassembly" 1 0 1 "IPv4 fragments are put together before rules see them"
    Ip4DropOptions "ip4.drop_options" 0 0 1 "IPv4 packets with options are dropped"
    Ip6Reassembly "ip6.reassembly" 1 0 1 "IPv6 fragments are put together before rules see them"
    Ip6DropOptions "ip6.drop_options" 0 0 1 "IPv6 packets with hop-by-hop or destination options are dropped"
    StateKeyInterface "state.key.interface" 1 0 1 "connections are bound to the interface on which they began"
    StateKeyDirection "state.key.direction" 1 0 1 "connections are bound to the direction in which they began"
    GcStep "gc.step" 256 1 1000000 "connections that are looked at, at most, each time that expired ones are removed"
    GcIntervalMin "gc.interval_min" 50 10 10000 "the shortest time between two removals of expired connections, in milliseconds"
    GcIntervalMax "gc.interval_max" 5000 10 10000 "the longest, in milliseconds"
    PortmapMinPort "portmap.min_port" 1024 1024 65535 "the lowest port that translation takes"
    PortmapMaxPort "portmap.max_port" 49151 1024 65535 "the highest"
    StateGenericTimeoutClosed "state.generic.timeout.closed" 0 0 4294967295 "seconds that a connection other than TCP stays when it is closed"
    StateGenericTimeoutNew "state.generic.timeout.new" 30 0 4294967295 "seconds that it stays before it is answered"
    StateGenericTimeoutEstablished "state.generic.timeout.established" 60 0 4294967295 "seconds that it stays after it was answered"
    StateGenericTimeoutGre "state.generic.timeout.gre" 86400 0 4294967295 "seconds that a GRE tunnel stays"
    StateTcpTimeoutNew "state.tcp.timeout.new" 30 0 4294967295 "seconds that a TCP connection stays before it is established"
    StateTcpTimeoutEstablished "state.tcp.timeout.established" 86400 0 4294967295 "seconds that an established one stays"
    StateTcpTimeoutHalfClose "state.tcp.timeout.half_close" 21600 0 4294967295 "seconds that one stays of which one side has closed"
    StateTcpTimeoutClose "state.tcp.timeout.close" 10 0 4294967295 "seconds that one stays that was closed or reset"
    StateTcpTimeoutTimeWait "state.tcp.timeout.time_wait" 240 0 4294967295 "seconds that one stays that both sides have closed"
    StateTcpStrictOrderRst "state.tcp.strict_order_rst" 1 0 1 "a reset must have the very next sequence number"
    StateTcpMaxAckWin "state.tcp.max_ack_win" 66000 0 1073741824 "bytes by which an acknowledgement may be late"
}

/// Values of all parameters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Params {
    values: [u32; PARAMS.len()],
}

impl Default for Params {
    fn default() -> Self {
        Params { values: std::array::from_fn(|i| PARAMS[i].default) }
    }
}

impl Params {
    /// A value.
    pub fn get(&self, key: Key) -> u32 {
        self.values[key as usize]
    }

    /// Whether something is on.
    pub fn is_on(&self, key: Key) -> bool {
        self.get(key) != 0
    }

    /// Sets a value. It has to be one that is possible.
    pub fn set(&mut self, key: Key, value: u32) {
        self.values[key as usize] = value;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_in_the_order_of_its_keys() {
        for (i, p) in PARAMS.iter().enumerate() {
            assert_eq!(p.key as usize, i, "{}", p.name);
            assert!((p.min..=p.max).contains(&p.default), "{}", p.name);
        }
    }
}
