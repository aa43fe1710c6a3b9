//! 802.1Q vlan interfaces.
