//! The API's table against its document.

use super::{endpoints::endpoints, schemas::schemas};
use crate::api::openapi;
use serde_json::Value;
use std::collections::BTreeSet;

#[test]
fn every_route_is_in_the_document_and_every_operation_has_a_name_of_its_own() {
    let all = endpoints();
    let document = openapi(&all, &schemas());
    let mut ids = BTreeSet::new();
    for e in &all {
        let operation = &document["paths"][e.path][e.method];
        assert_eq!(operation["operationId"], e.id, "{} {}", e.method, e.path);
        assert!(ids.insert(e.id), "{} stands twice", e.id);
        let named = e.path.matches('{').count() + e.query.len();
        assert_eq!(operation["parameters"].as_array().unwrap().len(), named, "{}", e.path);
    }
    let documented: usize = document["paths"].as_object().unwrap().values().map(|p| p.as_object().unwrap().len()).sum();
    assert_eq!(documented, all.len());
}

fn references(v: &Value, out: &mut BTreeSet<String>) {
    match v {
        Value::Object(o) => {
            if let Some(Value::String(r)) = o.get("$ref") {
                out.insert(r.trim_start_matches("#/components/schemas/").to_owned());
            }
            o.values().for_each(|v| references(v, out));
        }
        Value::Array(a) => a.iter().for_each(|v| references(v, out)),
        _ => {}
    }
}

#[test]
fn every_schema_that_is_named_is_there_and_used() {
    let schemas = schemas();
    let document = openapi(&endpoints(), &schemas);
    let mut used = BTreeSet::new();
    references(&document, &mut used);
    let there: BTreeSet<String> = schemas.as_object().unwrap().keys().cloned().collect();
    let missing: Vec<_> = used.difference(&there).collect();
    assert!(missing.is_empty(), "named but not there: {missing:?}");
    let unused: Vec<_> = there.difference(&used).filter(|n| *n != "Metrics").collect();
    assert!(unused.is_empty(), "there but not used: {unused:?}");
}
