//! What is made from the tables by which files are read: `docs/flow.schema.json` for editors, `docs/flow-format.md` for
//! people.

use std::path::Path;

#[test]
fn the_pages_about_the_format_are_those_of_the_code() {
    let schema = serde_json::to_string_pretty(&flow::format::json_schema()).unwrap();
    for (name, wanted) in [("flow.schema.json", format!("{schema}\n")), ("flow-format.md", flow::format::reference())] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs").join(name);
        if std::env::var_os("UPDATE_DOCS").is_some() {
            std::fs::write(&path, &wanted).unwrap();
        }
        let found = std::fs::read_to_string(&path).unwrap_or_default();
        let refresh = "UPDATE_DOCS=1 cargo test -p flow --test schema";
        assert!(found == wanted, "docs/{name} is not what the code says. Refresh it: {refresh}");
    }
}

#[test]
fn every_reference_of_the_schema_leads_somewhere() {
    let schema = flow::format::json_schema();
    let text = schema.to_string();
    let references: Vec<_> = text.split("\"$ref\":\"#").skip(1).filter_map(|rest| rest.split('"').next()).collect();
    assert!(references.len() > 15, "{}", references.len());
    for reference in references {
        assert!(schema.pointer(reference).is_some_and(serde_json::Value::is_object), "{reference}");
    }
}
