//! Paths into jsonb, which are followed in the binary form: they lead where they lead in the same
//! document as json, which is parsed whole.

#[pgrx::pg_schema]
mod tests {
    use crate::tests::stage::{self, activate_for_value, captured_values, payloads, reasons, run, text};
    use pgrx::prelude::*;

    /// Documents with what paths can meet.
    const DOCUMENTS: &[&str] = &[
        "null",
        "true",
        "12.50",
        "\"scalar\"",
        "[]",
        "{}",
        "[[]]",
        r#"[1, [2, 3], {"a": 4}, "five", null, false]"#,
        r#"{"a": {"b": "found"}, "c": 1}"#,
        r#"{"a": {"b": {"c": {"d": [1, 2, {"e": "deep"}]}}}}"#,
        r#"{"a": {"b": null, "c": false, "d": true, "e": ""}}"#,
        r#"{"a": "text", "b": {"size": "key", "first": 1, "last": 2}}"#,
        r#"{"a": [1.10, -0.00, 1e5, 1e-7, 123456789012345678901234567890.123], "b": 0}"#,
        r#"{"a": [{"b": 1}, {"b": 2}, {"b": [3]}], "size": 7, "first": "f", "last": [1]}"#,
        r#"{"0": "zero", "1": {"a": "one"}, "-1": [9], "a": {"0": {"b": 5}}}"#,
        r#"{"a key": {"é": "ü", "日本": ["語"]}, "": {"": "empty"}, "a.b": 1, "a-b": 2}"#,
        r#"{"a": "quote \" back \\ slash \/ \b\f\n\r\t \u0001 \u001f \u007f \u2028 😀 é", "b": ["\"", "\\u0041"]}"#,
        r#"{"a": 1, "a": 2, "b": {"c": 1, "c": {"d": 3}}}"#,
        r#"{"a": {"b": [[], {}, [{}], {"c": []}]}}"#,
        r#"{"A": 1, "a": {"B": 2, "b": 3}}"#,
        r#"{"size": null, "first": null, "last": null, "a": {"size": null, "b": [null]}}"#,
        r#"{"a": {"b": "2024-03-14T13:09:00Z", "c": "NaN", "d": "1e400"}}"#,
    ];

    const PATHS: &[&str] = &[
        ".a",
        ".a.b",
        ".a.b.c",
        ".a.b.c.d[2].e",
        ".a.b.c.d",
        ".a.b.c.d.last",
        ".a.b.c.d.size",
        ".a.c",
        ".a.d",
        ".a.e",
        ".a.b.size",
        ".a.size",
        ".a.first",
        ".a.last",
        ".a.first.b",
        ".a.last.b[0]",
        ".a[0]",
        ".a[0].b",
        ".a[1]",
        ".a[2].b.first",
        ".a[3]",
        ".a[4]",
        ".a[5]",
        ".a[-1]",
        ".a[-5]",
        ".a[-6]",
        ".a[9223372036854775807]",
        ".a[-9223372036854775808]",
        ".a[4294967296]",
        ".a[\"1\"]",
        ".a[\"+1\"]",
        ".a[\"-1\"]",
        ".a[\"01\"]",
        ".a[\"size\"]",
        ".a.b[0]",
        ".a.b[1].c",
        ".a.b[2]",
        ".a.b[3].c.size",
        ".b",
        ".b.size",
        ".b.first",
        ".b.last",
        ".b.c.d",
        ".b[0]",
        ".b[1]",
        ".c",
        ".A",
        ".a.B",
        ".size",
        ".first",
        ".last",
        ".first[1]",
        ".last[0]",
        ".first.size",
        ".size.size",
        "[0]",
        "[0][0]",
        "[1]",
        "[1][-1]",
        "[1].a",
        "[2].a",
        "[3]",
        "[3].size",
        "[4]",
        "[4].a",
        "[5]",
        "[-1]",
        "[-1][0]",
        "[\"a key\"].é",
        "[\"a key\"][\"日本\"][0]",
        "[\"a key\"].size",
        "[\"\"]",
        "[\"\"][\"\"]",
        "[\"a.b\"]",
        ".a-b",
        "[row.k]",
        "[row.k].b",
        ".a[row.k]",
        ".a[row.i]",
        ".a[row.i].b",
        "[row.d.none]",
        ".nowhere",
        ".nowhere.at.all",
    ];

    const WHOLE: &str = "{% assign d = row.d %}{% assign t = row.t %}";

    /// Puts each document in a row, once as jsonb and once as json, and compares what paths make of the two.
    fn expect_the_same(documents: &[String], paths: &[String]) {
        run("create table public.docs (n serial, d jsonb, t json, k text default 'a', i int default -1)");
        let each = |column: &str| {
            let hole = |path: &String| {
                let path = path.replace("row.d", &format!("row.{column}"));
                format!("{{{{ row.{column}{path} }}}}, \"{{{{ row.{column}{path} }}}}\"")
            };
            format!("[{}]", paths.iter().map(hole).collect::<Vec<_>>().join(", "))
        };
        let mut made = Vec::new();
        for column in ["d", "t"] {
            // Each hole of its own; in a program; and in one that has read the columns as a whole.
            for (before, after) in [("", ""), ("{% if true %}", "{% endif %}"), (WHOLE, "")] {
                activate_for_value("public.docs", &format!("{before}{}{after}", each(column)), "");
                for document in documents {
                    let document = document.replace('\'', "''");
                    run(&format!(
                        "insert into public.docs (d, t) values ('{document}', '{document}'::jsonb::text::json)"
                    ));
                }
                assert_eq!(reasons(), [""; 0], "{column} {before}");
                made.push(captured_values());
                run("select lago_push.drop_sync('values', discard => true)");
            }
        }
        run("drop table public.docs");
        let [plain, tagged, read, plain_text, tagged_text, read_text] = &made[..] else { panic!("six") };
        assert_eq!(plain.len(), documents.len());
        for (made, wanted) in [(plain, plain_text), (tagged, tagged_text), (read, read_text)] {
            for ((made, wanted), document) in made.iter().zip(wanted).zip(documents) {
                assert_eq!(made, wanted, "{document}\n{paths:?}");
            }
        }
    }

    fn owned(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|text| (*text).to_owned()).collect()
    }

    #[pg_test]
    fn a_path_into_jsonb_leads_where_it_leads_in_json() {
        stage::set();
        expect_the_same(&owned(DOCUMENTS), &owned(PATHS));
        // The other way round: what a path leads to must not depend on which were followed before.
        let mut backwards = owned(PATHS);
        backwards.reverse();
        expect_the_same(&owned(DOCUMENTS), &backwards);
    }

    /// The same numbers in every run.
    struct Dice(u64);

    impl Dice {
        fn below(&mut self, most: usize) -> usize {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (self.0 >> 33) as usize % most
        }

        fn one<'t>(&mut self, of: &[&'t str]) -> &'t str {
            of[self.below(of.len())]
        }
    }

    const KEYS: &[&str] = &[
        "a",
        "b",
        "ab",
        "size",
        "first",
        "last",
        "0",
        "1",
        "-1",
        "é",
        "a key",
        "",
        "long_enough_to_be_last",
    ];

    fn document(dice: &mut Dice, depth: usize) -> String {
        let kind = if depth == 0 { dice.below(6) } else { dice.below(12) };
        let count = [0, 1, 2, 3, 5, 40][dice.below(6)];
        match kind {
            0 => "null".into(),
            1 => dice.one(&["true", "false"]).into(),
            2 => dice.one(&["0", "-1", "9223372036854775807", "9223372036854775808", "7"]).into(),
            3 => dice.one(&["1.50", "-0.001", "1e20", "12345678901234567890.0987654321", "0.0"]).into(),
            4 => dice.one(&["\"\"", "\"a\"", "\"é\\n\\\"\\\\\"", "\"\\u0007x\"", "\"1\""]).into(),
            5 => format!("\"{}\"", "long ".repeat(count * 5)),
            6..=8 => {
                let items: Vec<_> = (0..count).map(|_| document(dice, depth - 1)).collect();
                format!("[{}]", items.join(","))
            }
            _ => {
                let member = |_| format!("\"{}\":{}", dice.one(KEYS), document(dice, depth - 1));
                let members: Vec<_> = (0..count).map(member).collect();
                format!("{{{}}}", members.join(","))
            }
        }
    }

    fn path(dice: &mut Dice) -> String {
        let step = |_| match dice.below(3) {
            0 => format!("[{}]", dice.one(&["0", "1", "2", "-1", "-2", "35", "row.i", "row.k"])),
            1 => format!(".{}", dice.one(&["a", "b", "size", "first", "last"])),
            _ => format!("[\"{}\"]", dice.one(KEYS)),
        };
        let steps: Vec<_> = (0..4).map(step).collect();
        let length = 1 + dice.below(4);
        steps[..length].concat()
    }

    #[pg_test]
    fn any_path_into_any_jsonb_leads_where_it_leads_in_json() {
        stage::set();
        for seed in 0..12 {
            let mut dice = Dice(seed);
            let documents: Vec<_> = (0..40).map(|_| document(&mut dice, 4)).collect();
            let paths: Vec<_> = (0..60).map(|_| path(&mut dice)).collect();
            expect_the_same(&documents, &paths);
        }
    }

    #[pg_test]
    fn a_path_is_followed_however_the_document_is_stored() {
        stage::set();
        run("create table public.docs (n int, d jsonb, b jsonb)");
        activate_for_value(
            "public.docs",
            "[{{ row.d.a.b }}, {{ row.d.pad.size }}, {{ old.d.a.b }}, {{ row.d.a.c }}, {{ row.b.a.b }}, {{ row.d.a.b }}]",
            ", operations => '{insert,update,delete}'",
        );
        let insert = |n: i32, pad: &str| {
            run(&format!(
                "insert into public.docs values ({n},
                     jsonb_build_object('a', jsonb_build_object('b', {n}, 'c', 1.50), 'pad', {pad}), '{{\"a\": {{\"b\": 0}}}}')"
            ));
        };
        insert(1, "''");
        insert(2, "repeat('compressed', 1000)");
        run("alter table public.docs alter d set storage external");
        insert(3, "repeat('elsewhere!', 1000)");
        run("alter table public.docs alter d set storage extended");
        insert(4, "(select string_agg(md5(i::text), '') from generate_series(1, 1000) i)");
        run("update public.docs set d = jsonb_set(d, '{a,b}', to_jsonb(n * 10)); update public.docs set n = 0;
             insert into public.docs values (5, null, null); delete from public.docs");
        let pads = [0, 10_000, 10_000, 32_000];
        let mut wanted = Vec::new();
        for (at, pad) in pads.iter().enumerate() {
            wanted.push(format!("[{n},{pad},null,1.50,0,{n}]", n = at + 1));
        }
        for (at, pad) in pads.iter().enumerate() {
            wanted.push(format!("[{new},{pad},{old},1.50,0,{new}]", new = (at + 1) * 10, old = at + 1));
        }
        for (at, pad) in pads.iter().enumerate() {
            wanted.push(format!("[{n},{pad},{n},1.50,0,{n}]", n = (at + 1) * 10));
        }
        wanted.push("[null,null,null,null,null,null]".into());
        let mut made = captured_values();
        // A deleted row is both the row and the old row, or neither: that is asked elsewhere.
        let deleted = made.split_off(wanted.len());
        assert_eq!(made, wanted);
        assert_eq!(deleted.len(), 5);
        assert_eq!(reasons(), [""; 0]);
    }

    #[pg_test]
    fn what_a_path_cannot_give_is_the_same_reason_as_in_json() {
        stage::set();
        run("create table public.docs (d jsonb, t json)");
        let mut made = Vec::new();
        for column in ["d", "t"] {
            activate_for_value(
                "public.docs",
                &format!("[{{{{ row.{column}.a.b }}}}, {{{{ row.{column}.a.c | plus: 1 }}}}]"),
                "",
            );
            for (b, c) in [("1e1001", "1"), ("1", "1e2000"), ("1", "[]")] {
                let document = format!("{{\"a\": {{\"b\": {b}, \"c\": {c}}}}}");
                run(&format!(
                    "insert into public.docs values ('{document}', '{document}'::jsonb::text::json)"
                ));
            }
            let deep = format!("{}{}", "[".repeat(128), "]".repeat(128));
            run(&format!(
                "insert into public.docs values ('{{\"a\": {{\"b\": {deep}}}}}', '{{\"a\": {{\"b\": {deep}}}}}')"
            ));
            made.push(reasons());
            run("select lago_push.drop_sync('values', discard => true)");
        }
        let [jsonb, json] = &made[..] else { panic!("two") };
        assert_eq!(jsonb.len(), 4);
        let renamed: Vec<_> = json.iter().map(|reason| reason.replace("\"t\"", "\"d\"")).collect();
        assert_eq!(*jsonb, renamed);
    }

    #[pg_test]
    fn a_path_beside_something_too_deep_is_followed() {
        stage::set();
        run("create table public.docs (d jsonb)");
        activate_for_value("public.docs", "{{ row.d.a }}", "");
        let deep = format!("{}{}", "[".repeat(500), "]".repeat(500));
        run(&format!("insert into public.docs values ('{{\"a\": 1, \"deep\": {deep}}}')"));
        assert_eq!(captured_values(), ["1"]);
        assert_eq!(reasons(), [""; 0]);
    }

    #[pg_test]
    fn a_loop_over_computed_keys_reads_the_document_once() {
        stage::set();
        run("create table public.docs (d jsonb)");
        activate_for_value(
            "public.docs",
            "{% assign sum = 0 %}{% for i in (0..999) %}{% assign sum = sum | plus: row.d.list[i].n %}{% endfor %}{{ sum }}",
            "",
        );
        run("insert into public.docs
             select jsonb_build_object('list', jsonb_agg(jsonb_build_object('n', i))) from generate_series(1, 1000) i");
        assert_eq!(payloads().len(), 1, "{:?}", reasons());
        assert_eq!(captured_values(), ["500500"]);
        assert_eq!(text("select count(*)::text from public.docs"), "1");
    }
}
