//! What templates make of rows: the examples people know from Shopify's Liquid, and where money
//! demands more than Liquid does.

use super::{Datum, Rendering, Row, Side};
use crate::template::{self, Mistake, MistakeKind, PathPiece, Piece, Place, Presence, Shape, Subject};
use proptest::prelude::*;
use serde_json::{Value as Json, json};
use std::cell::RefCell;

#[derive(Default)]
struct FakeRow {
    columns: Vec<(String, Datum)>,
    asked: RefCell<Vec<String>>,
}

impl FakeRow {
    fn new(columns: &[(&str, Datum)]) -> FakeRow {
        let columns = columns.iter().map(|(name, datum)| ((*name).to_owned(), datum.clone())).collect();
        FakeRow { columns, asked: RefCell::default() }
    }
}

impl Row for FakeRow {
    fn operation(&self) -> &'static str {
        "insert"
    }

    fn column(&self, side: Side, name: &str) -> Result<Option<Datum>, String> {
        self.asked.borrow_mut().push(name.to_owned());
        if name == "broken" {
            return Err("column \"broken\" could not be converted".into());
        }
        let found = self.columns.iter().find(|(known, _)| known == name);
        Ok(found.map(|(_, datum)| if side == Side::Row { datum.clone() } else { Datum::Null }))
    }

    fn columns(&self, _side: Side) -> Vec<String> {
        self.columns.iter().map(|(name, _)| name.clone()).collect()
    }
}

/// Renders as the renderer does, plain holes included.
fn render_with(template: &str, row: &FakeRow) -> Result<String, String> {
    let template = template::parse(template).unwrap_or_else(|mistake| panic!("{template}: {mistake:?}"));
    let rendering = Rendering::new(row);
    let mut out = Vec::new();
    for piece in &template.pieces {
        match piece {
            Piece::Literal(text) => out.extend_from_slice(text.as_bytes()),
            Piece::Hole(hole) => {
                let value = match &hole.subject {
                    Subject::Row(name) => rendering.column(Side::Row, name)?,
                    Subject::Old(name) => rendering.column(Side::Old, name)?,
                    Subject::Operation => super::value::Value::made(row.operation().to_owned()),
                };
                value.write(hole.place, super::value::Times::Iso, &rendering, &mut out)?;
            }
            Piece::Expression(expression) => expression.render(&rendering, &mut out)?,
            Piece::Program(program) => program.render(&rendering, &mut out)?,
        }
    }
    Ok(String::from_utf8(out).expect("UTF-8 in, UTF-8 out"))
}

fn row() -> FakeRow {
    FakeRow::new(&[
        ("id", Datum::Integer(7)),
        ("amount", Datum::Decimal("19.99".into())),
        ("price", Datum::Decimal("10".into())),
        ("float", Datum::Float(1e-7)),
        ("nan", Datum::Float(f64::NAN)),
        ("name", Datum::Text("Ann \"Q\" O\\Neil\n".into())),
        ("region", Datum::Text("eu-west".into())),
        ("digits", Datum::Text("12.50".into())),
        ("empty", Datum::Text(String::new())),
        ("none", Datum::Null),
        ("yes", Datum::Bool(true)),
        ("no", Datum::Bool(false)),
        ("größe", Datum::Integer(3)),
        ("Mixed Case", Datum::Json(json!({"x": 1}))),
        (
            "at",
            Datum::Moment { iso: "2024-03-14T13:09:00.123456Z".into(), unix_micros: 1_710_421_740_123_456 },
        ),
        (
            "meta",
            Datum::Json(json!({"region": "eu", "deep": {"list": [1, 2.5, "x", null, true]}, "size": 99})),
        ),
        (
            "items",
            Datum::Json(json!([
                {"sku": "b", "qty": 2, "price": 1.10, "on": true},
                {"sku": "a", "qty": 1, "price": 2.25},
                {"sku": "c", "qty": 3, "price": 10, "on": false}
            ])),
        ),
        ("list", Datum::Json(json!(["x", "y", "z"]))),
    ])
}

/// What an expression makes in value position.
fn value(expression: &str) -> String {
    render_with(&format!("{{{{ {expression} }}}}"), &row())
        .unwrap_or_else(|why| panic!("{expression}: {why}"))
}

fn failure(expression: &str) -> String {
    render_with(&format!("{{{{ {expression} }}}}"), &row()).expect_err(expression)
}

fn text(template: &str) -> String {
    render_with(template, &row()).unwrap_or_else(|why| panic!("{template}: {why}"))
}

fn mistake(template: &str) -> Mistake {
    template::parse(template).expect_err(template)
}

#[test]
fn expressions_give_what_shopify_gives() {
    let cases = [
        (r#"row.region | upcase"#, r#""EU-WEST""#),
        (r#"row.region | capitalize"#, r#""Eu-west""#),
        (r#"row.none | default: "n/a" | downcase"#, r#""n/a""#),
        (r#"row.empty | default: 5"#, "5"),
        (r#"row.no | default: 5"#, "5"),
        (r#"row.no | default: 5, allow_false: true"#, "false"),
        (r#""x-" | append: row.region"#, r#""x-eu-west""#),
        (r#"row.region | prepend: "x-" | replace: "-", "+" | remove: "w""#, r#""x+eu+est""#),
        (r#""a b a" | replace_first: "a", "c" | replace_last: "a", "d""#, r#""c b d""#),
        (r#""  x " | strip"#, r#""x""#),
        (r#"row.region | split: "-" | join: "/""#, r#""eu/west""#),
        (r#"row.region | split: "-""#, r#"["eu","west"]"#),
        (r#"row.region | slice: 0, 2"#, r#""eu""#),
        (r#"row.region | slice: -4, 4"#, r#""west""#),
        (r#"row.region | size"#, "7"),
        (r#"row.region | truncate: 5"#, r#""eu...""#),
        (r#"row.region | url_encode"#, r#""eu-west""#),
        (r#""a&b" | escape"#, r#""a&amp;b""#),
        (r#"row.meta.region"#, r#""eu""#),
        (r#"row.meta.deep.list[1]"#, "2.5"),
        (r#"row.meta["deep"].list.first"#, "1"),
        (r#"row.meta.deep.list.last"#, "true"),
        (r#"row.meta.deep.list.size"#, "5"),
        (r#"row.meta.size"#, "99"),
        (r#"row.meta.deep.list[-1]"#, "true"),
        (r#"row.items[0].sku"#, r#""b""#),
        (r#"row["Mixed Case"].x"#, "1"),
        (r#"row.größe | times: 2"#, "6"),
        ("\trow.größe\t|\ttimes:\t2", "6"),
        (r#"row.items | map: "sku" | sort | join: ",""#, r#""a,b,c""#),
        (r#"row.items | sort: "price" | map: "price""#, "[1.1,2.25,10]"),
        (r#"row.items | map: "price" | sum"#, "13.35"),
        (r#"row.items | sum: "qty""#, "6"),
        (r#"row.items | where: "sku", "a" | map: "qty" | first"#, "1"),
        (r#"row.items | where: "on" | size"#, "1"),
        (r#"row.list | reverse | join"#, r#""z y x""#),
        (r#"row.list | concat: row.list | uniq | size"#, "3"),
        (r#"row.meta.deep.list | compact | size"#, "4"),
        (r#"row.at"#, r#""2024-03-14T13:09:00.123456Z""#),
        (r#"row.at | date: "%s""#, r#""1710421740""#),
        (r#"row.at | date: "%Y-%m-%d %H:%M""#, r#""2024-03-14 13:09""#),
        (r#""2024-03-14T15:09:00.5+02:00" | date: "%s""#, r#""1710421740""#),
        (r#""2024-03-14" | date: "%d/%m/%Y""#, r#""14/03/2024""#),
        (r#"1710421740 | date: "%Y""#, r#""2024""#),
        (r#"row.none | date: "%s""#, "null"),
        (r#"row.name | json"#, r#""Ann \"Q\" O\\Neil\n""#),
        (r#"row.meta.deep | json"#, r#"{"list":[1,2.5,"x",null,true]}"#),
        (r#"op | upcase"#, r#""INSERT""#),
        (r#"(1..3)"#, "[1,2,3]"),
        (r#"true"#, "true"),
        (r#"nil"#, "null"),
        (r#"1.50"#, "1.50"),
    ];
    for (expression, expected) in cases {
        assert_eq!(value(expression), expected, "{expression}");
    }
}

#[test]
fn arithmetic_is_exact() {
    let cases = [
        ("row.amount | times: 100 | round", "1999"),
        ("row.amount | times: 100", "1999.00"),
        ("row.amount | plus: 0.01", "20.00"),
        ("row.amount | minus: row.id", "12.99"),
        ("row.id | divided_by: 2", "3"),
        ("row.price | divided_by: 4", "2.5"),
        ("row.id | divided_by: 2.0", "3.5"),
        ("row.id | modulo: 4", "3"),
        ("row.digits | times: 2", "25.00"),
        ("row.amount | round: 1", "20.0"),
        ("row.amount | ceil", "20"),
        ("row.amount | floor", "19"),
        ("-3 | abs", "3"),
        ("row.amount | at_least: 20 | at_most: 30", "20"),
        ("row.float | times: 1", "0.0000001"),
        ("9007199254740993 | plus: 0", "9007199254740993"),
    ];
    for (expression, expected) in cases {
        assert_eq!(value(expression), expected, "{expression}");
    }
}

#[test]
fn what_cannot_be_computed_is_a_reason_without_the_value() {
    let cases = [
        ("row.region | times: 2", "filter times at line 1, column 17: the input is not a number"),
        ("row.id | plus: row.region", "the argument is not a number"),
        ("row.none | plus: 1", "the input is null"),
        ("row.nan | plus: 1", "infinite or not a number"),
        ("row.id | divided_by: 0", "division by zero"),
        ("row.id | modulo: 0.0", "division by zero"),
        ("row.region | date: \"%s\"", "not a time"),
        ("row.at | date: \"%999999999d\"", "format is too long"),
        ("row.at | date: \"%\"", "strftime"),
        ("row.nan | json", "infinite or not a number, which JSON cannot carry"),
        ("row.broken | upcase", "column \"broken\""),
        ("row.region | round: \"x\"", "not an integer"),
        ("row.list | concat: 1", "not an array"),
    ];
    for (expression, expected) in cases {
        let why = failure(expression);
        assert!(why.contains(expected), "{expression}: {why}");
        assert!(!why.contains("eu-west"), "{why}");
    }
}

#[test]
fn what_is_not_there_is_nil() {
    for expression in [
        "row.meta.no.such.key",
        "row.meta.deep.list[99]",
        "row.meta.deep.list[-99]",
        "row.none.x",
        "row.id.x",
        "row.list[\"x\"]",
        "old.meta.region",
        "row.items[0].sku.x.y",
        "row.empty.first",
    ] {
        assert_eq!(value(expression), "null", "{expression}");
    }
    assert_eq!(text(r#"{"a": "[{{ row.meta.no }}]"}"#), r#"{"a":"[]"}"#);
}

#[test]
fn in_a_string_everything_is_escaped_text() {
    assert_eq!(text(r#"{"a": "{{ row.name | upcase }}"}"#), r#"{"a":"ANN \"Q\" O\\NEIL\n"}"#);
    assert_eq!(
        text(r#"{"a": "{{ row.items[1] | json }}"}"#),
        r#"{"a":"{\"sku\":\"a\",\"qty\":1,\"price\":2.25}"}"#
    );
    assert_eq!(text(r#"{"a": "{{ row.float | plus: 0 }}{{ row.none | json }}"}"#), r#"{"a":"0.0000001"}"#);
    assert_eq!(text(r#"{"a": "{{ row.nan | json }}"}"#), r#"{"a":"NaN"}"#);
}

#[test]
fn json_numbers_lose_their_exponent_and_nothing_else() {
    let row = FakeRow::new(&[(
        "j",
        Datum::Json(
            serde_json::from_str(r#"{"a": 1E3, "b": 0.10, "c": 12345678901234567890.123, "d": 1e999999999}"#)
                .expect("JSON"),
        ),
    )]);
    assert_eq!(render_with("{{ row.j.a }}", &row).expect("a number"), "1000");
    assert_eq!(render_with("{{ row.j.b }}", &row).expect("a number"), "0.10");
    assert_eq!(
        render_with("{{ row.j.c | times: 10 }}", &row).expect("a number"),
        "123456789012345678901.230"
    );
    assert!(render_with("{{ row.j.d }}", &row).expect_err("too large").contains("too large"));
    assert!(render_with("{{ row.j | json }}", &row).expect_err("too large").contains("too large"));
}

#[test]
fn what_a_buffer_holds_already_does_not_count_against_a_row() {
    let template = template::parse("{{ row.meta | json }}").expect("valid");
    let row = row();
    let mut out = vec![b' '; 17 << 20];
    for piece in &template.pieces {
        if let Piece::Expression(expression) = piece {
            expression.render(&Rendering::new(&row), &mut out).expect("renders");
        }
    }
    assert!(out.ends_with(b"}"));
}

#[test]
fn a_column_is_read_once_and_only_if_it_is_needed() {
    let row = row();
    render_with(
        r#"{"a": {{ row.amount | times: 2 }}, "b": "{{ row.amount | plus: row.id }}", "c": {{ row.amount | json }}}"#,
        &row,
    )
    .expect("renders");
    assert_eq!(*row.asked.borrow(), ["amount", "id"]);
}

#[test]
fn tags_decide_what_stands_in_the_json() {
    let cases = [
        (r#"{"a": {% if row.yes %}1{% else %}2{% endif %}}"#, r#"{"a":1}"#),
        (r#"{"a": {% if row.no %}1{% elsif row.id == 7 %}3{% else %}2{% endif %}}"#, r#"{"a":3}"#),
        (r#"{"a": {% unless row.no %}1{% else %}2{% endunless %}}"#, r#"{"a":1}"#),
        (r#"{"a": 1{% if row.none %}, "b": {{ row.none }}{% endif %}}"#, r#"{"a":1}"#),
        (r#"{"a": "{% if row.region == "eu-west" %}EU{% else %}US{% endif %}"}"#, r#"{"a":"EU"}"#),
        (
            r#"{"a": "{% case row.region %}{% when "x", "eu-west" %}1{% when "eu-west" %}2{% else %}3{% endcase %}"}"#,
            r#"{"a":"1"}"#,
        ),
        (r#"{"a": {% case row.price %}{% when 10.0 %}true{% else %}false{% endcase %}}"#, r#"{"a":true}"#),
        (
            r#"[{% for i in row.items %}{"s": "{{ i.sku }}", "t": {{ i.qty | times: i.price }}}{% unless forloop.last %}, {% endunless %}{% endfor %}]"#,
            r#"[{"s":"b","t":2.2},{"s":"a","t":2.25},{"s":"c","t":30}]"#,
        ),
        (r#"[{% for i in row.none %}1{% else %}"none"{% endfor %}]"#, r#"["none"]"#),
        (r#""{% for i in (1..3) reversed %}{{ i }}{% endfor %}""#, r#""321""#),
        (r#""{% for i in row.list limit: 1 offset: 1 %}{{ i }}{% endfor %}""#, r#""y""#),
        (r#""{% for i in row.items %}{{ i.nothing }}.{% endfor %}""#, r#""...""#),
        (
            r#""{% for i in (1..9) %}{% if i == 3 %}{% continue %}{% endif %}{% if i > 4 %}{% break %}{% endif %}{{ i }}{% endfor %}""#,
            r#""124""#,
        ),
        (
            r#""{% for i in (1..2) %}{% for j in (1..2) %}{{ forloop.parentloop.index }}{{ forloop.index0 }}{{ forloop.rindex }} {% endfor %}{{ forloop.length }}{% endfor %}""#,
            r#""102 111 2202 211 2""#,
        ),
        (r#""{% for p in row["Mixed Case"] %}{{ p[0] }}={{ p.last }}{% endfor %}""#, r#""x=1""#),
        (
            r#"{% assign t = 0 %}{% for i in row.items %}{% assign t = t | plus: i.price %}{% endfor %}{"t": {{ t }}}"#,
            r#"{"t":13.35}"#,
        ),
        (
            r#"{% capture who %}<{{ row.name }}>{% endcapture %}{"a": "{{ who }}", "b": {{ who }}}"#,
            r#"{"a":"<Ann \"Q\" O\\Neil\n>","b":"<Ann \"Q\" O\\Neil\n>"}"#,
        ),
        (r#"{"a": {% comment %} {{ nothing %} don't {% endcomment %}1}"#, r#"{"a":1}"#),
        (r#"{"a": {% # don't %}1, "b": "it's"}"#, r#"{"a":1,"b":"it's"}"#),
        (r#"{"a": "{% raw %}{{ row.x }}{% endraw %}"}"#, r#"{"a":"{{ row.x }}"}"#),
        ("{\"a\": \"x  {%- if row.yes -%}\n  y {%- endif %} z\"}", r#"{"a":"xy z"}"#),
        ("{% if row.yes %}{\n  \"a\" : [ 1 , \"b  c\" ]\n}{% endif %}", r#"{"a":[1,"b  c"]}"#),
        (r#"{"a": "{% if row.yes %}\"{{ row.name }}\"{% endif %}"}"#, r#"{"a":"\"Ann \"Q\" O\\Neil\n\""}"#),
    ];
    for (template, expected) in cases {
        let expected = if template.contains("\\\"{{ row.name") {
            r#"{"a":"\"Ann \"Q\" O\\Neil\n\""}"#
                .replace("Ann \"Q\" O\\\\Neil\\n", "Ann \\\"Q\\\" O\\\\Neil\\n")
        } else {
            expected.replace("<Ann \"Q\" O\\\\Neil\\n>", "<Ann \\\"Q\\\" O\\\\Neil\\n>")
        };
        assert_eq!(text(template), expected, "{template}");
    }
}

#[test]
fn conditions_compare_as_liquid_does_and_see_decimals_as_numbers() {
    let holds = |condition: &str| {
        text(&format!(
            "{{% assign cents = row.digits | minus: 2 %}}{{% if {condition} %}}1{{% else %}}0{{% endif %}}"
        )) == "1"
    };
    for condition in [
        "row.amount > 19.98",
        "row.amount < 20",
        "row.price == 10",
        "row.price == 10.00",
        "cents == 10.5",
        "cents >= 10.5 and cents <= 10.50",
        "row.id != 8",
        "row.id <> 8",
        "row.region contains \"west\"",
        "row.list contains \"y\"",
        "row.meta contains \"deep\"",
        "row.empty == empty",
        "row.empty == blank",
        "row.none == blank",
        "row.none == nil",
        "row.empty",
        "row.id",
        "row.no == false",
        "row.meta.deep.list[1] == 2.5",
        "row.digits > 12",
        "op == \"insert\"",
        // From the right: yes or (yes and no).
        "row.yes or row.yes and row.no",
    ] {
        assert!(holds(condition), "{condition}");
    }
    for condition in [
        "row.none",
        "row.no",
        "row.none > 1",
        "row.none < 1",
        "row.region > 1",
        "row.digits == 12.5",
        "row.nan == row.nan",
        "row.none contains \"x\"",
        "row.list == empty",
        // From the right: no and (yes or yes).
        "row.no and row.yes or row.yes",
    ] {
        assert!(!holds(condition), "{condition}");
    }
}

#[test]
fn a_whole_row_gives_pairs() {
    let row = FakeRow::new(&[("a", Datum::Integer(1)), ("b", Datum::Text("\"".into()))]);
    let template = r#"[{ {% for c in row %}{% unless forloop.first %}, {% endunless %}"{{ c[0] }}": {{ c[1] }}{% endfor %}}]"#;
    assert_eq!(render_with(template, &row).expect("renders"), r#"[{"a":1,"b":"\""}]"#);
    assert_eq!(render_with("{{ row | json }}", &row).expect("renders"), r#"{"a":1,"b":"\""}"#);
    assert_eq!(render_with(r#"{% assign n = "b" %}{{ row[n] }}"#, &row).expect("renders"), r#""\"""#);
    let references = template::parse(template).expect("valid").references().clone();
    assert_eq!(references.whole.len(), 1);
}

#[test]
fn every_mistake_in_a_tag_is_placed_and_says_what_to_type() {
    let cases = [
        ("{\n {% if row.x %}\"a\": 1", 2, 2, "{% if %} is not closed"),
        ("{% endif %}{}", 1, 1, "belongs to no tag"),
        ("{% if row.x %}{% for i in row.y %}{% endif %}{% endfor %}", 1, 35, "does not belong to {% for %}"),
        ("{\"a\": {% if row.x %}[1{% else %}2{% endif %}}", 1, 7, "different places"),
        ("{\"a\": {% if row.x %}\"1{% endif %}\"}", 1, 7, "different places"),
        ("[{% for i in row.x %}[{% endfor %}]", 1, 2, "ends elsewhere"),
        ("{\"a\": \"\\{{ row.x }}{% if row.x %}{% endif %}\"}", 1, 8, "backslash"),
        ("{\"a\": {{ nope }}{% if row.x %}{% endif %}}", 1, 7, "\"nope\" names neither"),
        ("{% if nope %}{% endif %}1", 1, 1, "\"nope\" names neither"),
        ("{% for i in row.x %}{% endfor %}{{ i }}", 1, 33, "\"i\" names neither"),
        ("{% assign row = 1 %}1", 1, 1, "cannot be a variable"),
        ("{% if row.x = 1 %}1{% endif %}", 1, 1, "compares with =="),
        ("{% if %}1{% endif %}", 1, 1, "no condition"),
        ("{% break %}1", 1, 1, "outside a loop"),
        ("[{% for i in row.x %}\"{% break %}\"{% endfor %}]", 1, 23, "stands elsewhere"),
        ("{% case row.x %}1{% when 1 %}{% endcase %}1", 1, 1, "between {% case %}"),
        ("{% if row.x %}{% endif %}{\"a\": 1, \"a\": 2}", 1, 35, "twice"),
        ("{% if row.x %}{% endif %}{\"a\": {{ row.a }} {{ row.b }}}", 1, 44, "comma is missing"),
        ("{% if row.x %}{% endif %}{\"a\": -{{ row.a }}}", 1, 32, "number"),
        ("{% if row.x %}{% endif %}{\"a\": {{ row.a }}1}", 1, 43, "comma is missing"),
        ("{% if row.x %}{% endif %}{\"a\": 1", 1, 33, "not closed"),
        ("{% if row.x %}{% endif %}}", 1, 26, "closes nothing"),
        ("{% if row.x %}{% endif %}[nil]", 1, 27, "word"),
        ("{% if row.x %}{% endif %}{\"{{ row.x }}\": 1}", 1, 27, "outermost key"),
        ("{% comment %}", 1, 1, "not closed"),
        ("{% raw %}", 1, 1, "not closed"),
        ("{% if row.x ", 1, 1, "not closed"),
        ("{% capture x %}1", 1, 1, "not closed"),
        ("{% capture x %}{% endcapture %}{{ forloop.index }}", 1, 32, "outside a loop"),
        ("{{ row.x | upcaes }}", 1, 1, "no filter \"upcaes\""),
        ("{{ row.x | }}", 1, 1, "missing after |"),
        ("{{ row.x | plus }}", 1, 1, "takes one argument"),
        ("{{ row.x | upcase: 1 }}", 1, 1, "takes no argument"),
        ("{{ row.x | default: \\\"a\\\" }}", 1, 1, "backslash"),
        ("{{ row.x + 1 }}", 1, 1, "no meaning"),
        ("{{ row.x == 1 }}", 1, 1, "compares"),
        ("{{ 'x }}", 1, 1, "quote is not closed"),
        ("{{% if row.x %}{% endif %}}", 1, 1, "brace stands directly before a tag"),
        ("{% if (row.x) %}{% endif %}1", 1, 1, "parentheses"),
    ];
    for (template, line, column, what) in cases {
        let mistake = mistake(template);
        assert!(mistake.what.contains(what), "{template}: {mistake:?}");
        assert_eq!((mistake.at.line, mistake.at.column), (line, column), "{template}: {mistake:?}");
        assert!(!mistake.hint.is_empty(), "{template}");
        assert_eq!(mistake.kind, MistakeKind::Malformed, "{template}");
    }
    assert!(mistake("{{ row.x | upcaes }}").hint.contains("upcase"));
    for tag in ["include 'x'", "render 'x'", "tablerow i in row.x", "cycle 1, 2", "increment x"] {
        let mistake = mistake(&format!("{{% {tag} %}}1"));
        assert_eq!(mistake.kind, MistakeKind::Unsupported, "{tag}");
    }
}

#[test]
fn the_outermost_keys_of_a_program_are_known() {
    let template = template::parse(
        r#"{"t": "x-{{ row.id }}", "at": {{ row.at }}, "one": "{{ row.x }}", "n": 5, "p": {"q": {% if row.x %}1{% else %}2{% endif %}, "r": {{ row.y }}},
        "d": {% if row.x %}1{% else %}2{% endif %}
        {% if row.x %}, "c": "text"{% else %}, "c": null{% endif %}, "m": "a{% if row.x %}b{% endif %}"}"#,
    )
    .expect("valid");
    let keys: Vec<_> =
        template.keys.iter().map(|key| (key.name.as_str(), key.value.clone(), key.presence)).collect();
    assert_eq!(
        keys,
        [
            ("t", Shape::MixedText, Presence::Always),
            ("at", Shape::HoleValue, Presence::Always),
            ("one", Shape::HoleText, Presence::Always),
            ("n", Shape::Bare("5".into()), Presence::Always),
            ("p", Shape::Object, Presence::Always),
            ("d", Shape::Unknown, Presence::Always),
            ("c", Shape::Text("text".into()), Presence::Sometimes),
            ("c", Shape::Null, Presence::Sometimes),
            ("m", Shape::Unknown, Presence::Always),
        ]
    );
}

#[test]
fn moments_become_unix_seconds_under_the_keys_that_want_them() {
    for template in [
        r#"{"timestamp": {% if row.none %}{{ row.none }}{% else %}{{ row.at }}{% endif %}, "x": {{ row.at }}}"#,
        r#"{"timestamp": {{ row.none | default: row.at }}, "x": {{ row.at | json }}}"#,
    ] {
        let mut template = template::parse(template).expect("valid");
        template.write_times_as_seconds("timestamp");
        let (row, mut out) = (row(), Vec::new());
        let rendering = Rendering::new(&row);
        for piece in &template.pieces {
            match piece {
                Piece::Literal(text) => out.extend_from_slice(text.as_bytes()),
                Piece::Expression(expression) => expression.render(&rendering, &mut out).expect("renders"),
                Piece::Program(program) => program.render(&rendering, &mut out).expect("renders"),
                Piece::Hole(_) => panic!("no plain hole here"),
            }
        }
        assert_eq!(
            String::from_utf8(out).expect("UTF-8"),
            r#"{"timestamp":1710421740.123456,"x":"2024-03-14T13:09:00.123456Z"}"#
        );
    }
}

#[test]
fn branches_that_make_no_json_are_a_reason() {
    for template in [
        r#"[{% if row.yes %}1,{% endif %}]"#,
        r#"{% if row.no %}1{% endif %}"#,
        r#"[{{ row.id }}{% if row.yes %}{{ row.id }}{% endif %}]"#,
        r#"[{{ row.id }}{% if row.yes %}0{% endif %}]"#,
    ] {
        assert_eq!(render_with(template, &row()).expect_err(template), super::program::NO_JSON, "{template}");
    }
}

#[test]
fn no_template_runs_for_ever_or_fills_the_memory() {
    let steps = "too many steps";
    for (template, why) in [
        (r#""{% for i in (1..9000000000000000000) %}{% endfor %}""#, steps),
        (r#""{% for i in (1..2000) %}{% for j in (1..2000) %}{% endfor %}{% endfor %}""#, steps),
        (
            r#"{% assign x = "ab" %}{% for i in (1..99) %}{% assign x = x | append: x %}{% endfor %}"{{ x | size }}""#,
            "16 MB",
        ),
        (
            r#"{% assign x = "ab" %}{% for i in (1..99) %}{% assign x = x | replace: "", x %}{% endfor %}1"#,
            "16 MB",
        ),
        (
            r#"{% assign x = row.list %}{% for i in (1..99) %}{% assign x = x | concat: x %}{% endfor %}1"#,
            steps,
        ),
        (
            r#"{% assign x = 3 %}{% for i in (1..999) %}{% assign x = x | times: x %}{% endfor %}1"#,
            "too large",
        ),
        (r#"{% assign x = 1.1 %}{% for i in (1..99) %}{% assign x = x | times: x %}{% endfor %}1"#, steps),
        (r#""{% for i in (1..1000000) %}xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx{% endfor %}""#, "16 MB"),
        (r#"{{ (1..9000000000000000000) | reverse }}"#, steps),
        (r#"{{ (1..9000000000000000000) | join }}"#, steps),
        (r#"{{ (1..9000000000000000000) }}"#, steps),
    ] {
        let reason = render_with(template, &row()).expect_err(template);
        assert!(reason.contains(why), "{template}: {reason}");
    }
    let long = FakeRow::new(&[
        ("text", Datum::Text("1".repeat(1_000_000))),
        ("j", Datum::Json(json!(["x".repeat(1_000_000)]))),
    ]);
    for template in [
        r#""{% for i in (1..900000) %}{% if row.text > i %}{% endif %}{% endfor %}""#,
        r#""{% for i in (1..900000) %}{% if row.text contains "2" %}{% endif %}{% endfor %}""#,
        r#""{% for i in (1..900000) %}{% if row.text.size > i %}{% endif %}{% endfor %}""#,
        r#""{% for i in (1..900000) %}{% assign x = row.j | join %}{% endfor %}""#,
        r#""{% for i in (1..900000) %}{% assign x = 1.5 | round: 100000 %}{% endfor %}""#,
    ] {
        assert!(render_with(template, &long).expect_err(template).contains(steps), "{template}");
    }
    let numeric = FakeRow::new(&[("n", Datum::Decimal(format!("1{}", "0".repeat(131_071))))]);
    assert!(
        render_with("{{ row.n | times: row.n }}", &numeric).expect_err("too large").contains("too large")
    );
    assert_eq!(render_with("{{ row.n | plus: 1 }}", &numeric).expect("fits").len(), 131_072);
    for deep in [
        "{% if row.x %}".repeat(10_000),
        format!("{{{{ {} }}}}", "row[".repeat(10_000)),
        format!("{{% if row.x %}}{{% endif %}}{}", "[".repeat(10_000)),
    ] {
        mistake(&deep);
    }
}

#[test]
fn u0000_in_json_text_does_not_reach_lago() {
    let row = FakeRow::new(&[("j", Datum::Json(json!({"a": "x\u{0}y"})))]);
    assert_eq!(render_with("{{ row.j.a }}", &row).expect("renders"), "\"xy\"");
    assert_eq!(render_with("{{ row.j | json }}", &row).expect("renders"), r#"{"a":"xy"}"#);
}

#[test]
fn a_path_gives_raw_text() {
    let path = template::path("/c/{{ row.region | upcase }}/{{ row.name }}").expect("valid");
    let row = row();
    let rendering = Rendering::new(&row);
    let texts: Vec<_> = path
        .pieces
        .iter()
        .map(|piece| match piece {
            PathPiece::Literal(text) => text.clone(),
            PathPiece::Hole(expression) => expression.text(&rendering).expect("renders"),
        })
        .collect();
    assert_eq!(texts, ["/c/", "EU-WEST", "/", "Ann \"Q\" O\\Neil\n"]);
}

fn any_json() -> impl Strategy<Value = Json> {
    let leaf = prop_oneof![
        Just(Json::Null),
        any::<bool>().prop_map(Json::from),
        any::<i64>().prop_map(Json::from),
        any::<f64>().prop_map(Json::from),
        any::<String>().prop_map(Json::from),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Json::from),
            prop::collection::vec((any::<String>(), inner), 0..4)
                .prop_map(|members| members.into_iter().collect()),
        ]
    })
}

fn any_datum() -> impl Strategy<Value = Datum> {
    prop_oneof![
        Just(Datum::Null),
        any::<bool>().prop_map(Datum::Bool),
        any::<i64>().prop_map(Datum::Integer),
        "-?[0-9]{1,30}(\\.[0-9]{1,20})?".prop_map(Datum::Decimal),
        Just(Datum::Decimal("NaN".into())),
        any::<f64>().prop_map(Datum::Float),
        any::<String>().prop_map(Datum::Text),
        "[-0-9.eE{}\"%, ]{0,12}".prop_map(Datum::Text),
        any::<i64>()
            .prop_map(|unix_micros| Datum::Moment { iso: "2024-03-14T13:09:00Z".into(), unix_micros }),
        any_json().prop_map(Datum::Json),
    ]
}

fn any_chain() -> impl Strategy<Value = String> {
    let operand = prop_oneof![
        Just("row.a".to_owned()),
        Just("row.b".to_owned()),
        Just("row.a[0]".to_owned()),
        Just("row.b.first".to_owned()),
        Just("row.a[row.b]".to_owned()),
        Just("row".to_owned()),
        Just("old.a".to_owned()),
        Just("\"x\"".to_owned()),
        Just("-3.5".to_owned()),
        Just("(1..4)".to_owned()),
    ];
    let filter = prop_oneof![
        prop::sample::select(vec![
            "upcase",
            "capitalize",
            "strip",
            "size",
            "first",
            "last",
            "sort",
            "uniq",
            "reverse",
            "compact",
            "sum",
            "json",
            "round",
            "ceil",
            "abs",
            "escape",
            "strip_html",
            "url_encode",
            "url_decode",
            "truncate",
            "newline_to_br",
            "escape_once",
            "truncatewords",
            "strip_newlines",
            "sort_natural",
            "join",
            "downcase",
        ])
        .prop_map(str::to_owned),
        (
            prop::sample::select(vec![
                "plus",
                "minus",
                "times",
                "divided_by",
                "modulo",
                "append",
                "prepend",
                "split",
                "default",
                "remove",
                "at_least",
                "at_most",
                "map",
                "where",
                "slice",
                "join",
                "date",
                "round",
                "concat",
                "truncate",
                "sum",
            ]),
            operand.clone()
        )
            .prop_map(|(filter, argument)| format!("{filter}: {argument}")),
    ];
    (operand, prop::collection::vec(filter, 1..4))
        .prop_map(|(operand, filters)| format!("{operand} | {}", filters.join(" | ")))
}

fn any_template() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        any_chain().prop_map(|chain| format!("{{{{ {chain} }}}}")),
        any_chain().prop_map(|chain| format!("\"s {{{{ {chain} }}}} \\\\\"")),
        Just("{{ row.a }}".to_owned()),
        Just("\"{{ row.b }}\"".to_owned()),
        Just("17".to_owned()),
        any_chain().prop_map(|chain| format!("{{% assign v = {chain} %}}{{{{ v }}}}")),
    ];
    leaf.prop_recursive(3, 12, 3, |inner| {
        prop_oneof![
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!(
                "{{% if row.a > row.b or row.a contains \"x\" %}}{a}{{% else %}}{b}{{% endif %}}"
            )),
            inner.clone().prop_map(|a| format!(
                "[{{% for i in row.a %}}{a}{{% unless forloop.last %}},{{% endunless %}}{{% endfor %}}]"
            )),
            inner.clone().prop_map(|a| format!("[{{% for c in row %}}{{{{ c[1] }}}},{{% endfor %}}{a}]")),
            (inner.clone(), inner).prop_map(|(a, b)| format!("{{\"lit  eral\": {a}, \"b\": {b}}}")),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn whatever_a_row_holds_the_payload_is_json_or_there_is_a_reason(
        template in any_template(),
        a in any_datum(),
        b in any_datum(),
    ) {
        let wrapped = format!("{{\"first\": \"kept  {{}}\", \"value\": {template}, \"last\": [1, true]}}");
        let row = FakeRow::new(&[("a", a), ("b", b)]);
        if let Ok(payload) = render_with(&wrapped, &row) {
            let payload: Json = serde_json::from_str(&payload).expect("valid JSON");
            let keys: Vec<_> = payload.as_object().expect("an object").keys().cloned().collect();
            prop_assert_eq!(keys, ["first", "value", "last"]);
            prop_assert_eq!(&payload["first"], &json!("kept  {}"));
            prop_assert_eq!(&payload["last"], &json!([1, true]));
        }
    }

    #[test]
    fn text_stays_the_text_it_is(text in "[^\\x00]{0,20}") {
        let row = FakeRow::new(&[("a", Datum::Text(text.clone()))]);
        let payload = render_with(
            r#"{% if op %}{"v": {{ row.a }}, "s": "x{{ row.a | append: "" }}y"}{% endif %}"#,
            &row,
        )
        .expect("text can always be written");
        prop_assert_eq!(serde_json::from_str::<Json>(&payload).expect("valid JSON"), json!({"v": text, "s": format!("x{text}y")}));
    }

    #[test]
    fn no_text_makes_the_compiler_panic(parts in prop::collection::vec(prop::sample::select(vec![
        "{%", "%}", "{{", "}}", "-", "if", "else", "endif", "for", "in", "endfor", "case", "when", "endcase", "assign", "capture",
        "endcapture", "raw", "endraw", "comment", "endcomment", "row.x", "i", "|", "plus", ":", "1", "\"", "'", "{", "}", "[", "]",
        ",", "\\", " ", "\n", "ö", "..", "(", ")", "=", "==", "break", "#", "forloop", ".", "%",
    ]), 0..30)) {
        let text = parts.join(" ");
        let _ = template::parse(&text);
        let _ = template::parse(&parts.concat());
        let _ = template::path(&text);
    }
}

#[test]
fn places_are_those_of_the_json() {
    let template =
        template::parse(r#"{"a": "{{ row.a | upcase }}", "b": {{ row.b | upcase }}}"#).expect("valid");
    let places: Vec<_> = template
        .pieces
        .iter()
        .filter_map(|piece| match piece {
            Piece::Expression(expression) => Some((expression.place, expression.key)),
            _ => None,
        })
        .collect();
    assert_eq!(places, [(Place::InString, Some(0)), (Place::Value, Some(1))]);
}
