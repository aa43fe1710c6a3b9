//! The schemas of requests and answers in the OpenAPI document. Answers may have more fields than are described.

use serde_json::{Map, Value, json};

fn string() -> Value {
    json!({"type": "string"})
}

fn integer() -> Value {
    json!({"type": "integer"})
}

fn boolean() -> Value {
    json!({"type": "boolean"})
}

fn words(words: &[&str]) -> Value {
    json!({"type": "string", "enum": words})
}

fn list(items: Value) -> Value {
    json!({"type": "array", "items": items})
}

fn named(name: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{name}")})
}

fn nullable(kind: &str) -> Value {
    json!({"type": [kind, "null"]})
}

/// The name of an offload.
fn offloads() -> Value {
    words(&smpnet_stack::OFFLOADS.map(|(_, n)| n))
}

/// An answer: more fields may come.
fn answer(text: &str, fields: Value) -> Value {
    json!({"type": "object", "description": text, "properties": fields})
}

/// A request: no other field is taken.
fn request(text: &str, required: &[&str], fields: Value) -> Value {
    json!({
        "type": "object", "description": text, "required": required, "properties": fields,
        "additionalProperties": false,
    })
}

/// All schemas by name.
pub fn schemas() -> Value {
    let mut all = Map::new();
    for part in [
        common(),
        interfaces(),
        routing(),
        filters(),
        super::capture::schemas(),
        super::npf::schemas(),
        observing(),
        configuring(),
    ] {
        if let Value::Object(part) = part {
            all.extend(part);
        }
    }
    all.into()
}

fn common() -> Value {
    json!({
        "Error": {
            "type": "object", "required": ["error"],
            "description": "Why a request was refused. Nothing was changed, unless `left_behind` lists something.",
            "properties": {
                "error": string(), "hint": string(), "step": string(), "undone": integer(),
                "left_behind": list(string()), "lines": list(string()), "problems": list(named("Problem")),
            },
        },
        "Changed": answer("Done.", json!({"steps": integer()})),
        "Removed": answer("Done.", json!({"removed": integer()})),
    })
}

fn interfaces() -> Value {
    let counters: Map<String, Value> = [
        "ipackets",
        "ierrors",
        "opackets",
        "oerrors",
        "collisions",
        "ibytes",
        "obytes",
        "imcasts",
        "omcasts",
        "iqdrops",
        "noproto",
        "path_errors",
    ]
    .iter()
    .map(|k| (k.to_string(), integer()))
    .collect();
    json!({
        "InterfaceList": list(named("Interface")),
        "Interface": answer("An interface.", json!({
            "index": integer(), "name": string(), "attachment": words(&["port", "kind", "loopback", "reserved"]),
            "driver": string(), "medium": words(&["ether", "raw_ip"]), "up": boolean(),
            "link": words(&["up", "down", "unknown"]), "speed": integer(), "running": boolean(),
            "quarantine": nullable("string"), "mtu": integer(), "mac": string(), "description": string(),
            "promisc": boolean(), "allmulti": boolean(), "multicast": list(string()),
            "capabilities": list(string()), "offloads": list(string()),
            "rss": {"anyOf": [named("Rss"), {"type": "null"}]}, "parent": nullable("string"), "rx_queues": integer(), "tx_queues": integer(),
            "addresses": list(answer("An address.", json!({
                "address": string(), "broadcast": nullable("string"),
                "state": words(&["tentative", "preferred", "duplicated"]),
            }))),
            "counters": answer("Counters by NetBSD's names.", counters.into()),
            "drops": list(named("Drop")),
            "status": {"description": "What the plugin says of it."},
            "driver_counters": {"type": "object", "additionalProperties": integer()},
            "options": {"type": "object"},
        })),
        "Rss": answer("How the device itself spreads what it receives over its queues.", json!({
            "programmed": boolean(), "table": integer(), "queues": integer(), "reason": nullable("string"),
        })),
        "InterfaceRequest": request("An interface to be made: a driver's port or of a kind.", &["name"], json!({
            "name": string(), "driver": string(), "kind": string(), "options": {"type": "object"},
            "addresses": list(string()), "mtu": integer(), "up": boolean(), "description": string(),
            "rx_queues": integer(), "tx_queues": integer(), "promisc": boolean(), "mac": string(),
            "multicast": list(string()), "allmulti": boolean(), "offloads": list(offloads()),
        })),
        "InterfaceChange": request("What is to be different.", &[], json!({
            "up": boolean(), "mtu": integer(), "description": string(), "promisc": boolean(),
            "mac": {"type": "string", "description": "an address, or `own` for the device's"},
            "allmulti": boolean(), "add_multicast": list(string()), "remove_multicast": list(string()),
            "offloads": list(offloads()), "offloads_on": list(offloads()), "offloads_off": list(offloads()),
            "options": {"type": "object"}, "add_addresses": list(string()), "remove_addresses": list(string()),
        })),
    })
}

fn routing() -> Value {
    json!({
        "RouteList": list(named("Route")),
        "Route": answer("A route.", json!({
            "dst": string(),
            "kind": words(&["forward", "connected", "local", "broadcast", "blackhole", "reject"]),
            "flags": string(),
            "nexthops": list(answer("A way out.", json!({
                "via": nullable("string"), "interface": string(), "weight": integer(),
            }))),
        })),
        "RouteAnswer": answer("Where a packet goes.", json!({
            "address": string(), "route": {"anyOf": [named("Route"), {"type": "null"}]},
            "source": nullable("string"), "mtu": nullable("integer"),
        })),
        "RouteRequest": request("A route: `via`, `dev` or `type`.", &["to"], json!({
            "to": string(), "via": {"anyOf": [string(), list(string())]}, "dev": string(),
            "type": words(&["blackhole", "reject"]),
        })),
        "RoutesRequest": request("Many routes: a list of new ones, or lines of route(8).", &[], json!({
            "routes": list(named("RouteRequest")),
            "text": {"type": "string", "description": "a line for each: DEST GATEWAY, or add, change or delete before it"},
            "file": {"type": "string", "description": "what the text is called in messages"},
        })),
        "RoutesChanged": answer("Done.", json!({"added": integer(), "changed": integer(), "deleted": integer()})),
        "NeighbourList": list(answer("A neighbour.", json!({
            "address": string(), "mac": string(), "interface": string(), "state": string(),
            "expires_s": nullable("integer"),
        }))),
        "NeighbourRequest": request("A permanent or published neighbour.", &["address", "mac"], json!({
            "address": string(),
            "mac": {"type": "string", "description": "an Ethernet address, or `auto` for a published entry with our own"},
            "interface": string(), "publish": boolean(),
        })),
    })
}

fn filters() -> Value {
    let actions = || words(&["drop", "pass"]);
    let policies = || words(&["pass", "drop", "detach"]);
    let with = |mut object: Value, more: Value| {
        if let (Value::Object(o), Value::Object(more)) = (&mut object, more) {
            o.extend(more);
        }
        object
    };
    let module = json!({
        "module": {"type": "string", "description": "a WebAssembly module for the filter ABI, in base64"},
        "module_file": {"type": "string", "description": "what the module is called in messages"},
        "config": {"type": "string", "description": "the module's own configuration"},
        "config_base64": {"type": "string", "description": "the same when it is no text"},
        "allow": list(words(&["log", "clock", "tables", "mark", "edit", "reject"])),
        "tables": {"type": "object", "description": "names of tables by the names in the manifest"},
        "limits": {"type": "object", "description": "limits of the module that are not as usual"},
    });
    let counts: Map<String, Value> =
        ["packets", "bytes", "matched", "passed", "dropped", "bursts", "faults", "fault_packets", "interpreted"]
            .iter()
            .map(|k| (k.to_string(), integer()))
            .collect();
    let status = json!({
        "name": string(), "kind": words(&["wasm", "module", "native"]), "native": string(), "consumed": integer(),
        "generation": integer(), "action": actions(), "layer": words(&["ether", "inet"]),
        "ifindex": nullable("integer"), "interface": nullable("string"), "dirs": words(&["in", "out", "both"]),
        "priority": integer(), "on_fault": policies(), "state": words(&["running", "recovering", "faulted", "detached"]),
        "text": string(), "packets": integer(), "matched": integer(), "passed": integer(), "dropped": integer(),
        "faults": integer(),
        "failed": {"type": ["string", "null"], "description": "why it does not run what it was told to"},
    });
    let mut detail = status.clone();
    if let (Value::Object(d), Value::Object(more)) = (
        &mut detail,
        json!({
            "sha256": string(), "created_unix_ms": integer(), "previous": nullable("integer"),
            "restored_from": nullable("integer"), "program": list(string()), "wasm_bytes": integer(),
            "generations": list(named("Generation")), "module": {"type": ["object", "null"]},
            "faults": list(json!({"type": "object"})), "log": list(json!({"type": "object"})),
            "counters": list(named("ModuleCounter")), "shadow": nullable("string"),
            "code_cache": {"type": ["object", "null"]}, "config": {"type": ["object", "null"]}, "last_fault": nullable("string"),
            "options": {"type": "object", "description": "of a native filter"},
            "report": {"description": "what a native filter says of itself"},
        }),
    ) {
        d.extend(more);
    }
    json!({
        "FilterList": list(answer("A filter.", status)),
        "Filter": answer("A filter with its history.", detail),
        "FilterRequest": request("A filter: one of `drop`, `pass`, `program`, `module`, `native`.", &["name"], with(json!({
            "name": string(), "drop": string(), "pass": string(), "program": string(),
            "native": string(), "options": {"type": "object"},
            "action": actions(), "attach": words(&["inet", "ether"]), "interface": string(),
            "direction": words(&["in", "out", "both"]), "priority": integer(), "on_fault": policies(),
            "faults": {"type": "string", "description": "N/SECONDS: how many faults are too many"},
        }), module.clone())),
        "SwapRequest": request("A program: one of `drop`, `pass`, `program`, `module`, `native`.", &[], with(json!({
            "drop": string(), "pass": string(), "program": string(), "native": string(),
            "options": {"type": "object"}, "action": actions(),
        }), module)),
        "Shadow": answer("A shadow.", json!({"name": string(), "shadow": string()})),
        "Diff": answer("How a shadow differs from its filter.", json!({
            "name": string(), "generation": integer(), "text": string(), "sha256": string(),
            "counts": named("DiffCounts"), "per_worker": list(named("DiffCounts")), "fault": nullable("string"),
            "samples": list(json!({"type": "object"})),
        })),
        "DiffCounts": answer("Packets that both judged, and on which they differ.", json!({
            "packets": integer(), "same": integer(), "verdict": integer(), "mark": integer(), "edit": integer(),
            "unsampled": integer(),
        })),
        "TableRequest": request("A table, and what is in it.", &["name", "kind"], json!({
            "name": string(), "kind": words(&["exact", "ipv4", "ipv6"]), "most": integer(), "text": string(),
            "file": string(),
        })),
        "EntriesRequest": request("Entries of a table.", &[], json!({
            "text": {"type": "string", "description": "a line for each: a key, and a value behind a blank (0)"},
            "file": {"type": "string", "description": "what the text is called in messages"},
        })),
        "Filled": answer("What a change of a table did.", json!({
            "table": string(), "entries": integer(), "added": integer(), "changed": integer(), "removed": integer(),
            "fill_us": integer(),
        })),
        "TableList": list(answer("A table.", json!({
            "name": string(), "kind": string(), "entries": integer(), "most": integer(), "changes": integer(),
        }))),
        "Table": answer("A table and its entries.", json!({
            "name": string(), "kind": string(), "entries": integer(), "most": integer(), "changes": integer(),
            "list": list(json!({"type": "object", "properties": {"key": string(), "value": integer()}})),
        })),
        "SwapReport": answer("What runs now and how long it took, in microseconds.", json!({
            "name": string(), "generation": integer(), "sha256": string(), "compile_us": {"type": "number"},
            "instantiate_us": {"type": "number"}, "adopt_us": {"type": "number"}, "workers": integer(),
        })),
        "Counts": answer("Counters of a filter.", counts.into()),
        "Generation": answer("A program that the filter ran.", json!({
            "generation": integer(), "sha256": string(), "counts": named("Counts"),
        })),
        "FilterStats": answer("What a filter counted.", json!({
            "name": string(), "generation": integer(), "total": named("Counts"), "per_worker": list(named("Counts")),
            "generations": list(named("Generation")), "ns_per_packet": nullable("number"),
            "counters": list(named("ModuleCounter")),
        })),
        "ModuleCounter": answer("A counter of a module.", json!({
            "name": string(), "total": integer(), "per_worker": list(integer()),
        })),
        "BpfRequest": request("An expression.", &["expr"], json!({"expr": string(), "dlt": words(&["RAW", "EN10MB"])})),
        "BpfProgram": answer("A program.", json!({
            "expression": string(), "dlt": string(), "engine": words(&["libpcap", "subset"]),
            "instructions": integer(), "program": list(string()), "decimal": string(),
        })),
    })
}

fn observing() -> Value {
    let totals: Map<String, Value> =
        ["received", "made", "from_plugins", "sent", "dropped", "consumed", "to_plugins", "held", "missing"]
            .iter()
            .map(|k| (k.to_string(), integer()))
            .collect();
    json!({
        "Version": answer("What runs.", json!({
            "version": string(), "abi": string(), "pid": integer(), "uptime_s": integer(), "file": string(),
            "workers": integer(),
        })),
        "Stats": answer("Totals.", json!({
            "accounting": answer("Packets by what became of them; `missing` is 0 while none is in flight.", totals.into()),
            "protocols": {"type": "object"}, "adjacencies": {"type": "object"}, "pool": {"type": "object", "additionalProperties": integer()},
            "workers": list(json!({"type": "object"})), "daemon": named("Version"),
        })),
        "Drop": answer("Drops.", json!({
            "interface": string(), "reason": string(), "packets": integer(), "text": string(),
        })),
        "DropList": list(named("Drop")),
        "QueueList": list(answer("A queue between workers.", json!({"name": string()}))),
        "SysctlList": list(answer("A node.", json!({
            "name": string(), "value": {}, "doc": string(), "writable": boolean(),
        }))),
        "SysctlRequest": request("A value for a node.", &["name", "value"], json!({
            "name": string(), "value": {"type": ["string", "integer", "boolean"]},
        })),
        "SysctlChange": answer("Before and after.", json!({"name": string(), "old": {}, "new": {}})),
        "ExplainRequest": request("A packet as the interface receives it.", &["interface", "packet"], json!({
            "interface": string(), "packet": {"type": "string", "description": "hex digits"},
            "vlan": {"type": "integer", "description": "tag control information of an 802.1Q tag that the device took off"},
            "segments": {"type": "string", "description": "tcp:BYTES or udp:BYTES: to be cut into segments"},
        })),
        "ExplainSteps": list(answer("A decision.", json!({
            "stage": string(), "decision": string(), "detail": string(),
        }))),
        "Event": answer("Something happened. Fields depend on `event`.", json!({
            "event": string(), "time_ms": {"type": "integer", "description": "milliseconds since 1970"},
        })),
        "Metrics": string(),
    })
}

fn configuring() -> Value {
    json!({
        "Config": answer("The configuration that runs, in the words of the file.", json!({
            "runtime": {"type": "object"}, "pool": {"type": "object"}, "plugins": {"type": "object"},
            "control": {"type": "object"}, "interfaces": list(json!({"type": "object"})),
            "routes": list(json!({"type": "object"})), "arp": list(json!({"type": "object"})),
            "filters": list(json!({"type": "object"})), "sysctl": {"type": "object"},
        })),
        "FileRequest": request("A configuration file.", &["file", "text"], json!({
            "file": {"type": "string", "description": "its name; paths in it are relative to its folder"},
            "text": string(), "dry_run": boolean(),
        })),
        "Problem": answer("Something wrong with a file.", json!({
            "severity": words(&["error", "warning"]), "message": string(), "hint": string(),
            "at": answer("Where.", json!({"line": integer(), "column": integer()})),
        })),
        "Applied": answer("The steps, done or (with dry_run) found.", json!({
            "file": string(), "dry_run": boolean(), "steps": list(string()), "notes": list(string()),
            "warnings": list(named("Problem")),
        })),
        "Checked": answer("What is wrong with a file.", json!({
            "ok": boolean(), "file": string(), "problems": list(named("Problem")),
        })),
        "PluginList": list(named("Plugin")),
        "Plugin": answer("A plugin.", json!({
            "name": string(), "version": string(), "abi": string(), "state": string(), "file": string(),
            "sha256": string(), "error": nullable("string"), "summary": string(), "license": string(),
            "kinds": list(string()), "privileges": list(string()), "built_with": string(),
            "provides": list(answer("What it provides.", json!({
                "what": words(&["driver", "kind", "filter"]), "name": string(), "summary": string(),
            }))),
        })),
        "PluginRequest": request("A plugin's file.", &["file"], json!({"file": string()})),
    })
}
