//! The configuration file: what it may say, what is wrong with it, and what it means.

mod check;
mod model;
mod module;
mod npf;
mod read;
mod route_words;
mod source;
mod table;
mod table_file;

pub use check::{CompileFilter, FilterFault, World, check};
pub use model::{
    Action, ArpEntry, AttachLayer, Backing, Config, ControlSection, DEFAULT_CACHE, DEFAULT_SOCKET, Filter,
    FilterDirection, FilterSource, FiltersSection, HugePages, Interface, Mac, Multicast, NextHop, PluginSection,
    PoolSection, Prefix, Route, RouteTarget, RuntimeSection,
};
pub use module::{MODULE_FILE_MAX, Module, capabilities, fault_limit, limits, table_name};
pub use npf::{NpfBundle, NpfSection, NpfSource, told};
pub use read::{
    ReadFile, filter_name, interface_address, interface_name, mac_or_auto, offload_name, offload_set, read,
    route_destination,
};
pub use route_words::{RouteCommand, route_file, route_words};
pub use source::{At, Located, Problem, Report, Severity, did_you_mean, nearest};
pub use table_file::{Entries, FilterTable, parse_entries, parse_line, table_kind, table_value, write_entries};

#[cfg(test)]
mod tests;
