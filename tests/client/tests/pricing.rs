//! Eight real pricings, and the catalogs in examples/, answer as the pricing states: every feature and every limit of every
//! plan, alone and with each add-on that is sold for it.
//!
//! `tests/pricing/<name>.cells.json` holds what the pricing says, taken from it by a path of its own (see convert.py). Cells
//! of a plan with an add-on state only what the add-on touches; everything else must be as in the plan alone, and is checked
//! too.

use entitlements_client_tests::Database;
use postgres::Client;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;

/// What one account holds.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Holding {
    plan: String,
    quantity: i32,
    addons: Vec<String>,
}

struct Cell {
    kind: String,
    /// A boolean, an amount, "unlimited", a config value; null if what is held does not carry the feature.
    expect: Value,
}

type Cells = BTreeMap<String, Cell>;

impl Holding {
    fn account(&self) -> String {
        format!("{} × {} with {:?}", self.plan, self.quantity, self.addons)
    }

    fn plan_alone(&self) -> Self {
        Self { plan: self.plan.clone(), quantity: 1, addons: Vec::new() }
    }
}

fn read_json(path: &str) -> Value {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..").join(path);
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("{value} is a text")).to_owned()
}

/// The expected cells of every holding, those of the plan alone filled in where an add-on or a quantity changes nothing.
fn expectation(path: &str) -> BTreeMap<Holding, Cells> {
    let mut holdings: BTreeMap<Holding, Cells> = BTreeMap::new();
    for cell in read_json(path).as_array().expect("cells are an array") {
        let holding = Holding {
            plan: text(&cell["plan"]),
            quantity: cell.get("quantity").map_or(1, |quantity| quantity.as_i64().expect("a number") as i32),
            addons: cell["addons"].as_array().expect("add-ons are an array").iter().map(text).collect(),
        };
        let stated = Cell { kind: text(&cell["kind"]), expect: cell["expect"].clone() };
        let twice = holdings.entry(holding).or_default().insert(text(&cell["feature"]), stated);
        assert!(twice.is_none(), "{cell} is stated twice");
    }
    for holding in holdings.keys().cloned().collect::<Vec<_>>() {
        let alone: Vec<_> = holdings[&holding.plan_alone()]
            .iter()
            .map(|(feature, cell)| (feature.clone(), Cell { kind: cell.kind.clone(), expect: cell.expect.clone() }))
            .collect();
        let cells = holdings.get_mut(&holding).expect("the holding is there");
        for (feature, cell) in alone {
            cells.entry(feature).or_insert(cell);
        }
    }
    holdings
}

/// Whether an answer is what the cell states: `granted` of entitled(), `value` of value_of(), `allowance` of allowance()
/// (for metered features; NULL = unlimited).
fn agrees(cell: &Cell, granted: bool, value: Option<&Value>, allowance: Option<&str>) -> bool {
    match (cell.kind.as_str(), &cell.expect) {
        ("flag", Value::Bool(on)) => granted == *on && value == Some(&cell.expect),
        ("config", Value::Null) => !granted && value.is_none(),
        ("config", _) => granted && value == Some(&cell.expect),
        ("quota" | "allocation", Value::String(_)) => granted && value == Some(&cell.expect) && allowance.is_none(),
        ("quota" | "allocation", amount) => {
            let amount = amount.as_f64().unwrap_or(0.0);
            let answered = allowance.map(|allowance| allowance.parse::<f64>().expect("an allowance is a number"));
            granted == (amount > 0.0) && answered == Some(amount) && value.and_then(Value::as_f64) == Some(amount)
        }
        (kind, expect) => panic!("a cell of kind {kind} states {expect}"),
    }
}

fn subscribe(client: &mut Client, holding: &Holding) {
    let account = holding.account();
    client
        .execute(
            "SELECT entitlements.subscribe($1::text, $2, quantity => $3)",
            &[&account, &holding.plan, &holding.quantity],
        )
        .unwrap_or_else(|error| panic!("{account}: {error:?}"));
    for addon in &holding.addons {
        client
            .execute("SELECT entitlements.subscribe($1::text, $2)", &[&account, addon])
            .unwrap_or_else(|error| panic!("{account}, {addon}: {error:?}"));
    }
}

/// Every difference between what the holder of `holding` is answered and `cells`.
fn differences(client: &mut Client, holding: &Holding, cells: &Cells) -> Vec<String> {
    let account = holding.account();
    let features: Vec<&String> = cells.keys().collect();
    let metered: Vec<bool> = cells.values().map(|cell| matches!(cell.kind.as_str(), "quota" | "allocation")).collect();
    let rows = client
        .query(
            "SELECT feature, f.kind,
                    entitlements.entitled($1::text, feature),
                    entitlements.value_of($1::text, feature),
                    CASE WHEN metered THEN entitlements.allowance($1::text, feature)::text END
               FROM unnest($2::text[], $3::boolean[]) AS cell (feature, metered)
               JOIN entitlements.features f ON f.key = feature",
            &[&account, &features, &metered],
        )
        .unwrap_or_else(|error| panic!("{account}: {error:?}"));
    assert_eq!(rows.len(), cells.len(), "{account}: every feature is in the catalog");
    let mut differences = Vec::new();
    for row in rows {
        let (feature, kind, granted): (String, String, bool) = (row.get(0), row.get(1), row.get(2));
        let (value, allowance): (Option<Value>, Option<String>) = (row.get(3), row.get(4));
        let cell = &cells[&feature];
        if kind != cell.kind || !agrees(cell, granted, value.as_ref(), allowance.as_deref()) {
            let expected = format!("{} {}", cell.kind, cell.expect);
            differences.push(format!("{account}: {feature}: {kind} {granted} {value:?} {allowance:?}, expected {expected}"));
        }
    }
    differences
}

/// Applies the catalog, gives one account to each holding, and checks all their cells.
fn answers_as_stated(catalog: &str, cells: &str) {
    let (document, holdings) = (read_json(catalog), expectation(cells));
    let members = |part: &str| document[part].as_object().expect("an object").keys().cloned().collect::<BTreeSet<_>>();
    let sold: BTreeSet<String> =
        holdings.keys().flat_map(|holding| holding.addons.iter().chain([&holding.plan])).cloned().collect();
    assert_eq!(sold, members("plans"), "{cells} has cells for each plan and add-on");
    for (holding, cells) in &holdings {
        let stated: BTreeSet<String> = cells.keys().cloned().collect();
        assert_eq!(stated, members("features"), "{}: a cell for each feature", holding.account());
    }

    let database = Database::new();
    let mut client = database.connect();
    client.query("SELECT * FROM entitlements.apply_catalog($1::jsonb)", &[&document]).expect("the catalog applies");
    let changes = client.query("SELECT * FROM entitlements.apply_catalog($1::jsonb)", &[&document]).expect("and once more");
    assert_eq!(changes.len(), 0, "{catalog}: applying it again changes nothing");

    let mut found = Vec::new();
    for (holding, cells) in &holdings {
        subscribe(&mut client, holding);
        found.extend(differences(&mut client, holding, cells));
    }
    assert!(found.is_empty(), "{} cells of {catalog} answer otherwise:\n{}", found.len(), found.join("\n"));
}

fn pricing(name: &str) {
    answers_as_stated(&format!("tests/pricing/{name}.catalog.json"), &format!("tests/pricing/{name}.cells.json"));
}

fn example(name: &str) {
    answers_as_stated(&format!("examples/catalogs/{name}.json"), &format!("tests/pricing/{name}.cells.json"));
}

#[test]
fn canva() {
    pricing("canva");
}

#[test]
fn clockify() {
    pricing("clockify");
}

#[test]
fn figma() {
    pricing("figma");
}

#[test]
fn github() {
    pricing("github");
}

#[test]
fn jira() {
    pricing("jira");
}

#[test]
fn monday() {
    pricing("monday");
}

#[test]
fn overleaf() {
    pricing("overleaf");
}

#[test]
fn postman() {
    pricing("postman");
}

#[test]
fn github_as_an_example() {
    example("github");
}

#[test]
fn postman_as_an_example() {
    example("postman");
}
