//! What is written reads back, in both formats; what must not be there is not.

pub mod parser;

use proptest::prelude::*;

use super::*;
use parser::{Parsed, parse};

const REQUESTS: Family = counter("nginx_requests_total", "Requests.");
const BYTES: Family = counter("nginx_sent_bytes_total", "Bytes \"sent\" over a \\ and\nmore.");
const ACTIVE: Family = gauge("nginx_active", "Active.");
const SECONDS: Family = histogram("nginx_duration_seconds", "Times.");
const BUILD: Family = info("nginx_build_info", "Facts.");
const BOUNDS: [u64; 4] = [1, 250, 1_000, 60_000];

fn write(format: Format, most: usize, fill: impl FnOnce(&mut Writer)) -> (String, u64, u64) {
    let mut writer = Writer::new(format, most);
    fill(&mut writer);
    let (written, dropped) = (writer.written(), writer.dropped());
    (String::from_utf8(writer.finish()).expect("text"), written, dropped)
}

fn all(writer: &mut Writer) {
    writer.family(&REQUESTS, |f| {
        f.put(&[("status", "200")], 7_u64);
        f.put(&[("status", "a\\b\"c\nd")], 0_u64);
    });
    writer.family(&BYTES, |f| f.put(&[], u64::MAX));
    writer.family(&ACTIVE, |f| f.put(&[], true));
    writer.family(&SECONDS, |f| {
        f.put_histogram(
            &[("zone", "é")],
            &Buckets { bounds: &BOUNDS, counts: &[1, 0, 2, 0, 3], sum: 12_340 },
        );
    });
    writer.family(&BUILD, |f| f.put(&[("version", "1.2")], 1_u64));
}

#[test]
fn the_text_format_is_prometheus_s() {
    let (text, ..) = write(Format::Text, 100, all);
    assert_eq!(
        text,
        "# HELP nginx_requests_total Requests.\n\
         # TYPE nginx_requests_total counter\n\
         nginx_requests_total{status=\"200\"} 7\n\
         nginx_requests_total{status=\"a\\\\b\\\"c\\nd\"} 0\n\
         # HELP nginx_sent_bytes_total Bytes \"sent\" over a \\\\ and\\nmore.\n\
         # TYPE nginx_sent_bytes_total counter\n\
         nginx_sent_bytes_total 18446744073709551615\n\
         # HELP nginx_active Active.\n\
         # TYPE nginx_active gauge\n\
         nginx_active 1\n\
         # HELP nginx_duration_seconds Times.\n\
         # TYPE nginx_duration_seconds histogram\n\
         nginx_duration_seconds_bucket{zone=\"é\",le=\"0.001\"} 1\n\
         nginx_duration_seconds_bucket{zone=\"é\",le=\"0.25\"} 1\n\
         nginx_duration_seconds_bucket{zone=\"é\",le=\"1.0\"} 3\n\
         nginx_duration_seconds_bucket{zone=\"é\",le=\"60.0\"} 3\n\
         nginx_duration_seconds_bucket{zone=\"é\",le=\"+Inf\"} 6\n\
         nginx_duration_seconds_count{zone=\"é\"} 6\n\
         nginx_duration_seconds_sum{zone=\"é\"} 12.34\n\
         # HELP nginx_build_info Facts.\n\
         # TYPE nginx_build_info gauge\n\
         nginx_build_info{version=\"1.2\"} 1\n"
    );
}

#[test]
fn openmetrics_has_families_units_and_an_end() {
    let (text, ..) = write(Format::OpenMetrics, 100, all);
    assert!(text.starts_with(
        "# HELP nginx_requests Requests.\n# TYPE nginx_requests counter\nnginx_requests_total{status=\"200\"} 7\n"
    ));
    assert!(text.contains(
        "# HELP nginx_sent_bytes Bytes \\\"sent\\\" over a \\\\ and\\nmore.\n# TYPE nginx_sent_bytes counter\n\
         # UNIT nginx_sent_bytes bytes\nnginx_sent_bytes_total 18446744073709551615\n"
    ));
    assert!(text.contains("# UNIT nginx_duration_seconds seconds\n"));
    assert!(text.contains("# TYPE nginx_build info\nnginx_build_info{version=\"1.2\"} 1\n"));
    assert!(text.ends_with("\n# EOF\n"));
}

#[test]
fn no_series_and_no_family_comes_twice() {
    let (text, written, dropped) = write(Format::Text, 100, |writer| {
        writer.family(&ACTIVE, |f| {
            f.put(&[("a", "b")], 1_u64);
            f.put(&[("a", "b")], 2_u64);
            f.put(&[("a", "b,c")], 3_u64);
        });
    });
    assert_eq!((written, dropped), (2, 1));
    assert_eq!(parse(Format::Text, &text).len(), 2);
    assert!(!text.contains(" 2\n"));
}

#[test]
#[cfg(not(debug_assertions))]
fn a_family_that_comes_again_is_left_out() {
    let twice = |writer: &mut Writer| {
        writer.family(&ACTIVE, |f| f.put(&[], 1_u64));
        writer.family(&ACTIVE, |f| f.put(&[("a", "b")], 1_u64));
    };
    assert_eq!(write(Format::Text, 9, twice).2, 1);
}

#[test]
fn there_are_never_more_series_than_allowed_and_no_half_histograms() {
    for most in 0..14 {
        let (text, written, dropped) = write(Format::OpenMetrics, most, all);
        let parsed = parse(Format::OpenMetrics, &text);
        assert_eq!(parsed.len() as u64, written);
        assert_eq!(written + dropped, 12);
        assert!(written <= most as u64);
    }
    let (text, ..) = write(Format::Text, 7, all);
    assert!(!text.contains("nginx_duration"), "no room for all of it");
    assert!(text.contains("nginx_build_info"), "but for one more");
}

#[test]
fn what_is_reserved_is_there_in_the_end() {
    let (text, written, dropped) = write(Format::Text, 3, |writer| {
        writer.reserve(1);
        writer.family(&REQUESTS, |f| (0..9_u64).for_each(|i| f.put(&[("status", &i.to_string())], i)));
        writer.release(1);
        let dropped = writer.dropped();
        writer.family(&ACTIVE, |f| f.put(&[], dropped));
    });
    assert_eq!((written, dropped), (3, 7));
    assert!(text.ends_with("nginx_active 7\n"));
}

#[test]
fn a_family_without_series_says_nothing() {
    assert_eq!(write(Format::Text, 9, |writer| writer.family(&ACTIVE, |_| {})).0, "");
    assert_eq!(write(Format::OpenMetrics, 9, |_| {}).0, "# EOF\n");
}

#[test]
fn times_are_exact_and_floats_are_what_prometheus_reads() {
    let shown = |value: Value| value.to_string();
    assert_eq!(
        [0, 1, 10, 100, 1_000, 1_234, 60_000].map(|ms| shown(Value::Millis(ms))),
        ["0", "0.001", "0.01", "0.1", "1", "1.234", "60"]
    );
    assert_eq!(shown(Value::Millis(u64::MAX)), "18446744073709551.615");
    assert_eq!(
        [0.5, f64::NAN, f64::INFINITY, f64::NEG_INFINITY].map(|v| shown(v.into())),
        ["0.5", "NaN", "+Inf", "-Inf"]
    );
}

#[test]
fn buckets_that_do_not_fit_their_bounds_stay_sound() {
    for counts in [&[][..], &[1], &[1; 9]] {
        let (text, ..) = write(Format::OpenMetrics, 99, |writer| {
            writer.family(&SECONDS, |f| f.put_histogram(&[], &Buckets { bounds: &BOUNDS, counts, sum: 1 }));
        });
        parse(Format::OpenMetrics, &text);
    }
}

#[test]
fn openmetrics_is_for_those_who_ask() {
    let prometheus = "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,\
                      text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
    let newer = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,\
                 application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,\
                 text/plain;version=0.0.4;q=0.3,*/*;q=0.2";
    let browser = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8";
    let rows: &[(&[&str], Format)] = &[
        (&[], Format::Text),
        (&[""], Format::Text),
        (&["*/*"], Format::Text),
        (&[browser], Format::Text),
        (&[prometheus], Format::OpenMetrics),
        (&[newer], Format::OpenMetrics),
        (&["application/openmetrics-text"], Format::OpenMetrics),
        (&["Application/OpenMetrics-Text; Version=\"1.0.0\""], Format::OpenMetrics),
        (&["application/openmetrics-text; version=0.0.1, text/plain;version=0.0.4;q=0.5"], Format::Text),
        (&["application/openmetrics-text;version=2.0.0"], Format::Text),
        (&["application/openmetrics-text;q=0"], Format::Text),
        (&["application/openmetrics-text;q=0.5, text/plain"], Format::Text),
        (&["application/openmetrics-text;q=0.5, text/plain;q=0.5"], Format::OpenMetrics),
        (&["application/openmetrics-text;q=0.5, text/*;q=0.6, text/plain;q=0.4"], Format::OpenMetrics),
        (&["application/openmetrics-text;q=0.5, */*"], Format::Text),
        (&["text/plain;q=0.2", "application/openmetrics-text;q=0.3"], Format::OpenMetrics),
        (&["application/openmetrics-text;x=\"a,b;q=0\\\"\";q=1"], Format::OpenMetrics),
        (&["application/openmetrics-text;q=1.5"], Format::Text),
        (&["application/openmetrics-text;q=0.1234"], Format::Text),
        (&["application/openmetrics-text;q=abc"], Format::Text),
        (&["application/json"], Format::Text),
        (&[",;,\"", "a/b;\"\\"], Format::Text),
    ];
    for (accept, format) in rows {
        assert_eq!(negotiate(accept.iter().copied()), *format, "{accept:?}");
    }
}

proptest! {
    #[test]
    fn whatever_is_written_reads_back(
        labels in proptest::collection::vec((any::<String>(), any::<String>(), any::<u64>()), 0..20),
        counts in proptest::collection::vec(0..1_000_000_u64, 5),
        sum in any::<u64>(),
        open in any::<bool>(),
    ) {
        let format = if open { Format::OpenMetrics } else { Format::Text };
        let (text, written, _) = write(format, 1_000, |writer| {
            writer.family(&REQUESTS, |f| {
                labels.iter().for_each(|(a, b, value)| f.put(&[("a", a), ("b", b)], *value));
            });
            writer.family(&SECONDS, |f| {
                for (a, b, _) in &labels {
                    f.put_histogram(&[("b", b), ("a", a)], &Buckets { bounds: &BOUNDS, counts: &counts, sum });
                }
            });
        });
        let parsed = parse(format, &text);
        prop_assert_eq!(parsed.len() as u64, written);
        for (a, b, _) in &labels {
            let value = labels.iter().find(|(x, y, _)| (x, y) == (a, b)).map(|(.., value)| value.to_string());
            let of = |name: &str, labels: &[(&str, &String)]| -> Option<Parsed> {
                parsed.iter().find(|p| p.name == name && p.is(labels)).cloned()
            };
            prop_assert_eq!(of("nginx_requests_total", &[("a", a), ("b", b)]).map(|p| p.value), value);
            let all = of("nginx_duration_seconds_count", &[("b", b), ("a", a)]).map(|p| p.value);
            prop_assert_eq!(all, Some(counts.iter().sum::<u64>().to_string()));
        }
    }

    #[test]
    fn no_accept_header_is_too_strange(values in proptest::collection::vec(any::<String>(), 0..4)) {
        let _ = negotiate(values.iter().map(String::as_str));
    }
}
