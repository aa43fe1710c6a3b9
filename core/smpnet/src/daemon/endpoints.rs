//! Every endpoint of the API.

use super::{capture, change, filters, metrics, npf, npf_state, npf_watch, show, state::Daemon};
use crate::api::{Endpoint, Handler, Param};

const fn required(name: &'static str, text: &'static str) -> Param {
    Param { name, text, required: true }
}

/// A reading endpoint.
fn get(
    path: &'static str,
    id: &'static str,
    summary: &'static str,
    returns: &'static str,
    run: fn(&Daemon, &crate::api::Call) -> show::Answer,
) -> Endpoint<Daemon> {
    Endpoint { method: "get", path, id, summary, query: &[], body: None, returns, handler: Handler::Json(run) }
}

/// Any other endpoint.
fn other(
    method: &'static str,
    path: &'static str,
    id: &'static str,
    summary: &'static str,
    body: Option<&'static str>,
    returns: &'static str,
    run: fn(&Daemon, &crate::api::Call) -> show::Answer,
) -> Endpoint<Daemon> {
    Endpoint { method, path, id, summary, query: &[], body, returns, handler: Handler::Json(run) }
}

/// The table.
pub fn endpoints() -> Vec<Endpoint<Daemon>> {
    let mut all = interfaces();
    all.extend(routing());
    all.extend(filtering());
    all.extend(npf::endpoints());
    all.extend(npf_state::endpoints());
    all.extend(npf_watch::endpoints());
    all.extend(capture::endpoints());
    all.extend(observing());
    all.extend(configuring());
    all
}

fn interfaces() -> Vec<Endpoint<Daemon>> {
    let one = "/v1/interfaces/{name}";
    vec![
        get("/v1/interfaces", "listInterfaces", "All interfaces", "InterfaceList", show::interfaces),
        other(
            "post",
            "/v1/interfaces",
            "createInterface",
            "Make an interface",
            Some("InterfaceRequest"),
            "Changed",
            change::interface_create,
        ),
        get(one, "getInterface", "One interface", "Interface", show::interface),
        other(
            "patch",
            one,
            "changeInterface",
            "Change an interface; what is left out stays",
            Some("InterfaceChange"),
            "Changed",
            change::interface_change,
        ),
        other(
            "delete",
            one,
            "destroyInterface",
            "End an interface, with the routes, neighbours and filters that lean on it",
            None,
            "Changed",
            change::interface_destroy,
        ),
    ]
}

fn routing() -> Vec<Endpoint<Daemon>> {
    const TO: &[Param] = &[required("to", "destination: a prefix, a host or `default`")];
    const HOST: &[Param] = &[required("to", "an address")];
    vec![
        get("/v1/routes", "listRoutes", "The routing table", "RouteList", show::routes),
        Endpoint {
            query: HOST,
            ..get("/v1/routes/get", "getRoute", "The route that a packet takes", "RouteAnswer", show::route_get)
        },
        other("post", "/v1/routes", "addRoute", "Add a route", Some("RouteRequest"), "Changed", change::route_add),
        other(
            "put",
            "/v1/routes",
            "changeRoute",
            "Make a route lead elsewhere",
            Some("RouteRequest"),
            "Changed",
            change::route_change,
        ),
        Endpoint {
            query: TO,
            ..other("delete", "/v1/routes", "deleteRoute", "Remove a route", None, "Changed", change::route_delete)
        },
        other(
            "post",
            "/v1/routes/bulk",
            "changeRoutes",
            "Add, change and delete many routes as one transaction: all of them, or none",
            Some("RoutesRequest"),
            "RoutesChanged",
            change::routes_bulk,
        ),
        other(
            "post",
            "/v1/routes/flush",
            "flushRoutes",
            "Remove every route that was added",
            None,
            "Removed",
            change::routes_flush,
        ),
        get("/v1/arp", "listNeighbours", "All neighbours", "NeighbourList", show::arp),
        other(
            "post",
            "/v1/arp",
            "addNeighbour",
            "Add a permanent or published neighbour",
            Some("NeighbourRequest"),
            "Changed",
            change::arp_add,
        ),
        other(
            "post",
            "/v1/arp/flush",
            "flushNeighbours",
            "Remove every neighbour that was learned",
            None,
            "Removed",
            change::arp_flush,
        ),
        other(
            "delete",
            "/v1/arp/{address}",
            "deleteNeighbour",
            "Remove a neighbour",
            None,
            "Changed",
            change::arp_delete,
        ),
    ]
}

fn filtering() -> Vec<Endpoint<Daemon>> {
    let one = "/v1/filters/{name}";
    vec![
        get("/v1/filters", "listFilters", "All filters", "FilterList", show::filters),
        other(
            "post",
            "/v1/filters",
            "loadFilter",
            "Compile a filter, or make a native one, and attach it",
            Some("FilterRequest"),
            "SwapReport",
            change::filter_load,
        ),
        get(one, "getFilter", "One filter: program, history, faults", "Filter", show::filter),
        other(
            "put",
            one,
            "swapFilter",
            "Put another program in a filter's place; no packet is lost",
            Some("SwapRequest"),
            "SwapReport",
            change::filter_swap,
        ),
        other("delete", one, "detachFilter", "Take a filter away", None, "Changed", change::filter_detach),
        get(
            "/v1/filters/{name}/stats",
            "getFilterStats",
            "A filter's counters, by worker and generation",
            "FilterStats",
            show::filter_stats,
        ),
        other(
            "post",
            "/v1/filters/{name}/rollback",
            "rollbackFilter",
            "Go back to the program before the last swap",
            None,
            "SwapReport",
            change::filter_rollback,
        ),
        other(
            "post",
            "/v1/filters/{name}/shadow",
            "loadShadow",
            "Run a program beside a filter's, on the same packets; nobody acts on what it says",
            Some("SwapRequest"),
            "Shadow",
            filters::shadow_load,
        ),
        other(
            "delete",
            "/v1/filters/{name}/shadow",
            "dropShadow",
            "End a shadow",
            None,
            "Changed",
            filters::shadow_drop,
        ),
        get("/v1/filters/{name}/diff", "getDiff", "How a shadow differs; samples come once", "Diff", filters::diff),
        other(
            "post",
            "/v1/filters/{name}/promote",
            "promoteShadow",
            "Put a shadow in its filter's place",
            None,
            "SwapReport",
            filters::promote,
        ),
        get("/v1/tables", "listTables", "Tables that modules look into", "TableList", filters::tables),
        other(
            "post",
            "/v1/tables",
            "createTable",
            "Make a table",
            Some("TableRequest"),
            "Filled",
            filters::table_create,
        ),
        get("/v1/tables/{name}", "getTable", "A table and its entries", "Table", filters::table),
        other("delete", "/v1/tables/{name}", "removeTable", "Remove a table", None, "Changed", filters::table_remove),
        other(
            "put",
            "/v1/tables/{name}/entries",
            "replaceEntries",
            "Give a table other entries, in one step for packets",
            Some("EntriesRequest"),
            "Filled",
            filters::table_replace,
        ),
        other(
            "post",
            "/v1/tables/{name}/entries",
            "addEntries",
            "Add entries or change their values, in one step for packets",
            Some("EntriesRequest"),
            "Filled",
            filters::table_add,
        ),
        other(
            "post",
            "/v1/tables/{name}/delete",
            "deleteEntries",
            "Remove entries, in one step for packets",
            Some("EntriesRequest"),
            "Filled",
            filters::table_delete,
        ),
        other(
            "post",
            "/v1/bpf/compile",
            "compileFilter",
            "Compile an expression without loading it",
            Some("BpfRequest"),
            "BpfProgram",
            show::bpf_compile,
        ),
    ]
}

fn observing() -> Vec<Endpoint<Daemon>> {
    const PREFIX: &[Param] = &[Param { name: "prefix", text: "only nodes at or below this name", required: false }];
    vec![
        get("/v1/version", "getVersion", "What runs", "Version", show::version),
        get("/v1/stats", "getStats", "Totals, protocol statistics, pool, workers", "Stats", show::stats),
        get("/v1/drops", "listDrops", "Drops by reason and interface", "DropList", show::drops),
        get("/v1/queues", "listQueues", "Queues between workers", "QueueList", show::queues),
        Endpoint {
            query: PREFIX,
            ..get("/v1/sysctl", "listSysctl", "Statistics, tables and settings", "SysctlList", show::sysctl)
        },
        other(
            "put",
            "/v1/sysctl",
            "setSysctl",
            "Write a node",
            Some("SysctlRequest"),
            "SysctlChange",
            change::sysctl_set,
        ),
        other(
            "post",
            "/v1/explain",
            "explainPacket",
            "Walk one packet through the running configuration; nothing is sent or counted",
            Some("ExplainRequest"),
            "ExplainSteps",
            show::explain,
        ),
        Endpoint {
            method: "get",
            path: "/v1/events",
            id: "listenEvents",
            summary: "Events as they happen: JSON lines, or server-sent events when asked for",
            query: &[],
            body: None,
            returns: "Event",
            handler: Handler::Events,
        },
        Endpoint {
            method: "get",
            path: "/metrics",
            id: "getMetrics",
            summary: "Every counter in Prometheus' text format",
            query: &[],
            body: None,
            returns: "Metrics",
            handler: Handler::Text("text/plain; version=0.0.4", metrics::render),
        },
    ]
}

fn configuring() -> Vec<Endpoint<Daemon>> {
    vec![
        get("/v1/config", "getConfig", "The configuration that runs", "Config", show::config),
        other(
            "post",
            "/v1/apply",
            "applyConfig",
            "Make the router what a file says, as one transaction",
            Some("FileRequest"),
            "Applied",
            change::apply,
        ),
        other(
            "post",
            "/v1/check",
            "checkConfig",
            "Say what is wrong with a file",
            Some("FileRequest"),
            "Checked",
            show::check,
        ),
        get("/v1/plugins", "listPlugins", "Plugins, loaded and refused", "PluginList", show::plugins),
        other(
            "post",
            "/v1/plugins",
            "loadPlugin",
            "Load a plugin from a file",
            Some("PluginRequest"),
            "Plugin",
            change::plugin_load,
        ),
    ]
}
