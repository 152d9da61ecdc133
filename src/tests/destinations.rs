//! Destinations: what is refused, in which words, and what the rest becomes.

#[pgrx::pg_schema]
mod tests {
    use crate::tests::stage::{self, failure, refuses, run, text, texts};
    use pgrx::prelude::*;

    fn create(arguments: &str) -> String {
        format!("select lago_push.create_destination({arguments})")
    }

    const LOOKS_LIKE: &str = "It looks like https://api.getlago.com/api/v1.";

    #[pg_test]
    fn a_url_that_is_none_is_refused() {
        stage::set();
        let words = ["22023", "the destination's URL is not a URL", "", LOOKS_LIKE];
        for url in ["'nonsense'", "''", "null", "'//lago.example/api/v1'", "'https://'"] {
            refuses(&create(&format!("'other', {url}")), words);
        }
        refuses("select lago_push.alter_destination('lago', url => 'nonsense')", words);
    }

    #[pg_test]
    fn a_url_of_another_protocol_is_refused() {
        stage::set();
        let words = ["22023", "the destination's URL is not http or https", "", LOOKS_LIKE];
        for url in ["ftp://lago.example/api/v1", "file:///api/v1", "localhost:3000/api/v1"] {
            refuses(&create(&format!("'other', '{url}'")), words);
        }
    }

    #[pg_test]
    fn a_url_without_the_path_of_the_api_is_refused_with_the_url_to_try() {
        stage::set();
        let refuses = |url: &str, hint: &str| {
            let message = "the destination's URL lacks the path of Lago's API";
            let detail = "Without it Lago answers every call with 404.";
            refuses(&create(&format!("'other', '{url}'")), ["22023", message, detail, hint]);
        };
        refuses("https://api.getlago.com", "Try https://api.getlago.com/api/v1.");
        refuses("https://lago.example/api", "Try https://lago.example/api/v1.");
        refuses("https://lago.example/api/v", "Try https://lago.example/api/v1.");
        refuses("https://lago.example/api/vx", "Try https://lago.example/api/v1.");
        refuses("https://lago.example/v1", "Try https://lago.example/api/v1.");
        refuses("https://lago.example/api/v1/events", "Try https://lago.example/api/v1.");
        refuses("http://localhost:3000/", "Try http://localhost:3000/api/v1.");
    }

    #[pg_test]
    fn a_url_with_credentials_query_or_fragment_is_refused_and_not_repeated() {
        stage::set();
        for url in [
            "https://user:hush@lago.example/api/v1",
            "https://hush@lago.example/api/v1",
            "https://lago.example/api/v1?key=hush",
            "https://lago.example/api/v1#hush",
        ] {
            let [sqlstate, message, detail, hint] = failure(&create(&format!("'other', '{url}'")));
            assert_eq!(
                [&*sqlstate, &*message, &*detail, &*hint],
                [
                    "22023",
                    "the destination's URL holds more than host and path",
                    "",
                    "Give the key as api_key; leave out user, query and fragment."
                ],
                "{url}"
            );
        }
    }

    #[pg_test]
    fn plain_http_goes_to_this_machine_or_where_it_is_allowed() {
        stage::set();
        let words = [
            "22023",
            "the destination's URL is plain http",
            "The API key would cross the network unencrypted.",
            "Use https, or allow_http => true for a Lago inside your own network.",
        ];
        for url in [
            "http://lago.example/api/v1",
            "http://10.0.0.1/api/v1",
            "http://localhost.lago.example/api/v1",
            "http://[2001:db8::1]/api/v1",
            "http://0.0.0.0/api/v1",
        ] {
            refuses(&create(&format!("'other', '{url}'")), words);
            refuses(&create(&format!("'other', '{url}', allow_http => null")), words);
        }
        for (number, url) in [
            "http://localhost:3000/api/v1",
            "http://lago.localhost/api/v1",
            "http://127.0.0.1/api/v1",
            "http://[::1]:3000/api/v1",
        ]
        .iter()
        .enumerate()
        {
            run(&create(&format!("'local {number}', '{url}'")));
        }
        run(&create("'inside', 'http://lago.internal/api/v1', allow_http => true"));
        refuses("select lago_push.alter_destination('inside', allow_http => false)", words);
        run(
            "select lago_push.alter_destination('inside', url => 'https://lago.internal/api/v1', allow_http => false)",
        );
    }

    #[pg_test]
    fn a_url_is_kept_without_its_last_slash() {
        stage::set();
        run(&create("'other', 'https://lago.example/some/where/api/v1/'"));
        assert_eq!(
            text("select url from lago_push.destinations where name = 'other'"),
            "https://lago.example/some/where/api/v1"
        );
    }

    #[pg_test]
    fn a_destination_needs_a_name() {
        stage::set();
        for name in ["null", "''"] {
            refuses(
                &create(&format!("{name}, 'https://lago.example/api/v1'")),
                ["22023", "a destination needs a name", "", ""],
            );
        }
    }

    #[pg_test]
    fn a_destination_name_is_given_once() {
        stage::set();
        refuses(
            &create("'lago', 'https://other.example/api/v1', api_key => 'other'"),
            [
                "42710",
                "destination \"lago\" already exists",
                "",
                "Change it with lago_push.alter_destination(), or choose another name.",
            ],
        );
    }

    #[pg_test]
    fn an_unknown_destination_is_refused_with_the_names_there_are() {
        stage::set();
        run(&create("'Second One', 'https://lago.example/api/v1'"));
        let calls = [
            "alter_destination('lagoo', connections => 1)",
            "set_api_key('lagoo', 'key')",
            "hold('lagoo')",
            "release('lagoo')",
            "drop_destination('lagoo')",
            &format!("create_sync('calls', 'public.calls', '{}', destination => 'lagoo')", stage::TEMPLATE),
        ];
        for call in calls {
            refuses(
                &format!("select lago_push.{call}"),
                ["42704", "destination \"lagoo\" does not exist", "", "Destinations: \"Second One\", lago."],
            );
        }
        refuses(
            "select lago_push.hold(null)",
            ["42704", "destination \"\" does not exist", "", "Destinations: \"Second One\", lago."],
        );
        run("select lago_push.drop_destination('Second One'), lago_push.drop_destination('lago')");
        refuses(
            "select lago_push.hold('lago')",
            [
                "42704",
                "destination \"lago\" does not exist",
                "",
                "Create one with lago_push.create_destination().",
            ],
        );
    }

    fn refuses_setting(setting: &str, words: [&str; 4]) {
        refuses(&create(&format!("'other', 'https://lago.example/api/v1', {setting}")), words);
    }

    #[pg_test]
    fn a_setting_is_refused_in_the_same_words_when_altered() {
        stage::set();
        for setting in [
            "url => 'nonsense'",
            "headers => '[]'",
            "headers => '\"x\"'",
            "headers => '{\"X\": 1}'",
            "headers => '{\"Host\": \"x\"}'",
            "rate_limit => 0",
            "rate_limit => 1000001",
            "rate_limit => 'NaN'",
            "connections => 0",
            "connections => 257",
            "timeout => '0'",
            "timeout => '2 h'",
            "connect_timeout => '0'",
            "read_timeout => '2 h'",
            "api_key => ''",
            "api_key => 'a b'",
            "api_key => 'a', api_key_file => '/b'",
            "api_key_file => 'b'",
            "ca_file => 'b'",
            "proxy => 'socks5://x'",
        ] {
            let created = if setting.starts_with("url") {
                format!("'other', {setting}")
            } else {
                format!("'other', 'https://lago.example/api/v1', {setting}")
            };
            let altered = failure(&format!("select lago_push.alter_destination('lago', {setting})"));
            assert_eq!(altered, failure(&create(&created)), "{setting}");
        }
    }

    #[pg_test]
    fn headers_that_are_not_names_and_text_are_refused() {
        stage::set();
        let words = [
            "22023",
            "headers must be a JSON object of header names and text",
            "",
            "For example: '{\"X-Tenant\": \"acme\"}'.",
        ];
        for headers in [
            "[]",
            "null",
            "\"X-Tenant\"",
            "{\"X-Tenant\": 1}",
            "{\"X-Tenant\": null}",
            "{\"X Tenant\": \"acme\"}",
            "{\"\": \"acme\"}",
            "{\"X-Tenant\": \"a\\nb\"}",
            "{\"X-Tenant\": \"ä\"}",
        ] {
            refuses_setting(&format!("headers => '{headers}'"), words);
        }
    }

    #[pg_test]
    fn headers_lago_push_sets_itself_are_refused() {
        stage::set();
        for header in [
            "Authorization",
            "authorization",
            "CONTENT-TYPE",
            "Host",
            "Content-Length",
            "Transfer-Encoding",
            "User-Agent",
        ] {
            refuses_setting(
                &format!("headers => '{{\"X-Tenant\": \"acme\", \"{header}\": \"hush\"}}'"),
                [
                    "22023",
                    "headers sets a header that lago_push sets itself",
                    "",
                    "The API key goes into api_key, never into headers: headers are readable.",
                ],
            );
        }
    }

    #[pg_test]
    fn limits_out_of_range_are_refused() {
        stage::set();
        for rate in ["0", "-1", "1000001", "'NaN'", "'Infinity'"] {
            refuses_setting(
                &format!("rate_limit => {rate}"),
                [
                    "22023",
                    "rate_limit must be more than 0 and at most 1000000 requests per second",
                    "",
                    "Leave it out for no limit of your own.",
                ],
            );
        }
        for connections in ["0", "-1", "257"] {
            refuses_setting(
                &format!("connections => {connections}"),
                ["22023", "connections must be between 1 and 256", "", ""],
            );
        }
        for timeout in ["0", "999 ms", "1 h 1 s", "-1 min"] {
            refuses_setting(
                &format!("timeout => '{timeout}'"),
                ["22023", "timeout must be between 1 second and 1 hour", "", ""],
            );
        }
        for parameter in ["connect_timeout", "read_timeout"] {
            let message = format!("{parameter} must be between 100 milliseconds and 1 hour");
            for timeout in ["0", "99 ms", "1 h 1 s", "-1 min"] {
                refuses_setting(&format!("{parameter} => '{timeout}'"), ["22023", &message, "", ""]);
            }
        }
        run(&create(
            "'most', 'https://lago.example/api/v1', rate_limit => 1000000, connections => 256, timeout => '1 h', connect_timeout => '1 h', read_timeout => '1 h'",
        ));
        run(&create(
            "'least', 'https://lago.example/api/v1', rate_limit => 0.001, connections => 1, timeout => '1 s', connect_timeout => '100 ms', read_timeout => '100 ms'",
        ));
    }

    #[pg_test]
    fn settings_given_as_null_take_their_defaults() {
        stage::set();
        run(&create(
            "'other', 'https://lago.example/api/v1', headers => null, connections => null, timeout => null, allow_http => null, connect_timeout => null",
        ));
        assert_eq!(
            text(
                "select concat_ws(' ', headers, connections, timeout, allow_http, connect_timeout, coalesce(read_timeout::text, 'none')) from lago_push.destination where name = 'other'"
            ),
            "{} 16 00:00:30 f 00:00:10 none"
        );
    }

    #[pg_test]
    fn a_key_and_a_file_with_a_key_are_one_too_many() {
        stage::set();
        refuses_setting(
            "api_key => 'hush', api_key_file => '/etc/lago.key'",
            ["22023", "api_key and api_key_file are both given", "", "Give one of them."],
        );
    }

    #[pg_test]
    fn a_key_no_header_can_carry_is_refused_and_not_repeated() {
        stage::set();
        let words = [
            "22023",
            "the API key is empty or holds characters no HTTP header can carry",
            "",
            "Copy it from Lago's developer page, without spaces or line breaks.",
        ];
        for key in ["''", "'hush '", "e'hush\\n'", "e'hu\\rsh'", "e'hush\\nX-Evil: 1'", "'hüsh'", "e'\\t'"] {
            refuses_setting(&format!("api_key => {key}"), words);
            refuses(&format!("select lago_push.set_api_key('lago', {key})"), words);
        }
        refuses("select lago_push.set_api_key('lago', null)", words);
    }

    #[pg_test]
    fn only_who_may_read_the_servers_files_names_one() {
        stage::set();
        run("create role clerk;
             grant usage on schema lago_push to clerk;
             grant execute on all functions in schema lago_push to clerk;
             set local role clerk");
        for setting in ["api_key_file => '/etc/passwd'", "ca_file => '/etc/passwd'"] {
            for call in
                ["create_destination('mine', 'https://evil.example/api/v1',", "alter_destination('lago',"]
            {
                let [sqlstate, message, detail, hint] =
                    failure(&format!("select lago_push.{call} {setting})"));
                assert_eq!(sqlstate, "42501", "{call} {setting}");
                assert!(message.contains("files of the server"), "{message}");
                assert!(detail.contains("clerk") && hint.contains("pg_read_server_files"), "{detail} {hint}");
            }
        }
        run("reset role; update lago_push.destination set ca_file = '/ca.pem'; set local role clerk;
             select lago_push.alter_destination('lago', connections => 3);
             reset role; grant pg_read_server_files to clerk; set local role clerk;
             select lago_push.create_destination('mine', 'https://lago.example/api/v1', ca_file => '/ca.pem')");
    }

    #[pg_test]
    fn headers_lago_push_decides_on_are_refused() {
        stage::set();
        for header in
            ["Authorization", "content-encoding", "Accept-Encoding", "Proxy-Authorization", "Expect", "TE"]
        {
            refuses_setting(
                &format!("headers => '{{\"{header}\": \"x\"}}'"),
                [
                    "22023",
                    "headers sets a header that lago_push sets itself",
                    "",
                    "The API key goes into api_key, never into headers: headers are readable.",
                ],
            );
        }
    }

    #[pg_test]
    fn files_are_named_by_absolute_paths() {
        stage::set();
        let words = ["22023", "api_key_file and ca_file must be absolute paths on the server", "", ""];
        for setting in ["api_key_file => 'lago.key'", "api_key_file => ''", "ca_file => '../ca.pem'"] {
            refuses_setting(setting, words);
        }
    }

    #[pg_test]
    fn a_proxy_that_is_no_http_url_is_refused() {
        stage::set();
        for proxy in ["nonsense", "socks5://proxy.internal:1080", "proxy.internal:3128", ""] {
            refuses_setting(
                &format!("proxy => '{proxy}'"),
                ["22023", "the proxy is not an http URL", "", "It looks like http://proxy.internal:3128."],
            );
        }
    }

    #[pg_test]
    fn a_destination_in_use_is_not_dropped() {
        stage::set();
        stage::draft("calls", "");
        stage::draft("More calls", "");
        refuses(
            "select lago_push.drop_destination('lago')",
            [
                "2BP01",
                "destination \"lago\" is in use",
                "Syncs that deliver to it: \"More calls\", calls.",
                "Drop them first with lago_push.drop_sync().",
            ],
        );
        run(
            "select lago_push.drop_sync('calls'), lago_push.drop_sync('More calls'), lago_push.drop_destination('lago')",
        );
        assert_eq!(text("select pg_temp.made()"), "", "its key, its health and its syncs are gone with it");
    }

    #[pg_test]
    fn a_key_replaces_a_file_and_a_file_replaces_a_key() {
        stage::set();
        let kept = || {
            text(
                "select concat_ws(' ', d.api_key_file, k.api_key) from lago_push.destination d left join lago_push.api_key k on k.destination_id = d.id",
            )
        };
        assert_eq!(kept(), "secret");
        run("select lago_push.alter_destination('lago', api_key_file => '/etc/lago.key')");
        assert_eq!(kept(), "/etc/lago.key");
        run("select lago_push.set_api_key('lago', 'newer')");
        assert_eq!(kept(), "newer");
        run("select lago_push.alter_destination('lago', connections => 3)");
        assert_eq!(kept(), "newer");
    }

    #[pg_test]
    fn altering_one_setting_leaves_the_others() {
        stage::set();
        run(&create(
            "'other', 'https://lago.example/api/v1', headers => '{\"X-Tenant\": \"acme\"}', rate_limit => 5, connections => 2, timeout => '5 s', ca_file => '/ca.pem', proxy => 'http://proxy:3128'",
        ));
        run("select lago_push.alter_destination('other', rate_limit => 50)");
        assert_eq!(
            text(
                "select concat_ws(' ', url, headers, rate_limit, connections, timeout, ca_file, proxy, allow_http) from lago_push.destination where name = 'other'"
            ),
            "https://lago.example/api/v1 {\"X-Tenant\": \"acme\"} 50 2 00:00:05 /ca.pem http://proxy:3128 f"
        );
    }

    #[pg_test]
    fn a_held_destination_says_who_holds_it_until_it_is_released() {
        stage::set();
        let state = || text("select state from lago_push.destinations");
        assert_eq!(state(), "open");
        run(
            "create role \"Some Body\" superuser; set local role \"Some Body\"; select lago_push.hold('lago'); reset role",
        );
        assert_eq!(state(), "held: by \"Some Body\"");
        run("select lago_push.hold('lago')");
        assert_eq!(state(), "held: by \"Some Body\"", "the first reason stays");
        run("select lago_push.release('lago')");
        assert_eq!(state(), "open");
        run("update lago_push.destination_health set next_attempt_at = clock_timestamp() + interval '1 h'");
        assert_eq!(state(), "backing off");
        // The end of a pause is the worker's to write down: it must not wait for a session that releases.
        run("select lago_push.release('lago')");
        assert_eq!(state(), "backing off");
    }

    #[pg_test]
    fn a_call_that_carries_a_key_does_not_show_it() {
        stage::set();
        let shown = || text("select query from pg_stat_activity where pid = pg_backend_pid()");
        for (call, shows) in [
            (
                "create_destination('other', 'https://lago.example/api/v1', api_key => 'hush')",
                "lago_push.create_destination(…)",
            ),
            ("alter_destination('lago', api_key => 'hush')", "lago_push.alter_destination(…)"),
            ("set_api_key('lago', 'hush')", "lago_push.alter_destination(…)"),
        ] {
            run(&format!("select lago_push.{call}"));
            run("select pg_stat_clear_snapshot()");
            assert_eq!(shown(), shows);
        }
        let views = ["status", "destinations", "workers", "endpoints", "outbox", "dead_letters"];
        for view in views {
            assert!(
                !texts(&format!("select v::text from lago_push.{view} v")).concat().contains("hush"),
                "{view}"
            );
        }
    }

    #[pg_test]
    fn timeouts_of_parts_of_a_request_are_stored_and_left_alone() {
        stage::set();
        let stored = || {
            text(
                "select concat_ws(' ', connect_timeout, coalesce(read_timeout::text, 'none')) from lago_push.destination",
            )
        };
        assert_eq!(stored(), "00:00:10 none");
        run("select lago_push.alter_destination('lago', connect_timeout => '250 ms')");
        run("select lago_push.alter_destination('lago', read_timeout => '1 min')");
        run(
            "select lago_push.alter_destination('lago', timeout => '2 min'); select lago_push.set_api_key('lago', 'k')",
        );
        assert_eq!(stored(), "00:00:00.25 00:01:00");
    }

    /// What the worker writes when it stops delivering.
    const HOLDS: &str = "insert into lago_push.destination_hold (destination_id, since, why)
        select d.id, '2024-03-14 13:09:00+00', 'Lago does not know the API key' from lago_push.destination d where d.name = 'lago'";

    fn held() -> String {
        text(
            "select concat_ws(' since ', state, extract(epoch from held_since)::bigint) from lago_push.destinations where name = 'lago'",
        )
    }

    #[pg_test]
    fn a_destination_the_worker_holds_says_why_and_since_when() {
        stage::set();
        assert_eq!(held(), "open");
        run(HOLDS);
        // Whatever pause there was: it waits for somebody, not for a time.
        run("update lago_push.destination_health set next_attempt_at = clock_timestamp() + interval '1 h'");
        assert_eq!(held(), "held: Lago does not know the API key since 1710421740");
    }

    #[pg_test]
    fn an_operators_hold_stands_before_the_workers() {
        stage::set();
        run(HOLDS);
        let me = text("select current_user::regrole::text");
        run("select lago_push.hold('lago')");
        assert_eq!(held(), format!("held: by {me} since 1710421740"));
        run("select lago_push.alter_destination('lago', timeout => '20 s')");
        assert_eq!(held(), format!("held: by {me}"), "a change ends the worker's hold only");
        run(HOLDS);
        run("select lago_push.release('lago')");
        assert_eq!(held(), "open", "released of both");
    }

    #[pg_test]
    fn what_changes_a_destination_ends_the_workers_hold_on_it_and_no_other() {
        stage::set();
        run(&create("'other', 'https://lago.example/api/v1'"));
        for change in [
            "release('lago')",
            "set_api_key('lago', 'another')",
            "alter_destination('lago')",
            "alter_destination('lago', url => 'https://lago.example/api/v2')",
            "alter_destination('lago', api_key_file => '/etc/lago.key')",
        ] {
            run(HOLDS);
            run("select lago_push.alter_destination('other'), lago_push.release('other')");
            assert!(held().starts_with("held: Lago does not know"), "{change}");
            failure("select lago_push.alter_destination('lago', connections => 0)");
            assert!(held().starts_with("held: Lago does not know"), "{change}");
            run(&format!("select lago_push.{change}"));
            assert_eq!(held(), "open", "{change}");
        }
    }

    #[pg_test]
    fn a_dropped_destination_takes_its_hold_with_it() {
        stage::set();
        run(HOLDS);
        run("select lago_push.drop_destination('lago')");
        assert_eq!(text("select count(*)::text from lago_push.destination_hold"), "0");
    }
}
