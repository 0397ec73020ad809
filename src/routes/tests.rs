use proptest::prelude::*;

use super::*;

const GET: http::Method = http::Method::GET;

fn get() -> MethodLabel {
    MethodLabel::new(&GET)
}

fn name_of(routes: &Routes, id: RouteId) -> &str {
    &routes.get(id).unwrap().name
}

#[test]
fn a_pair_has_one_id() {
    let routes = Routes::new(8);
    let id = routes.id(get(), "/users/{id}");
    assert_eq!(routes.of_request(get(), Some("/users/{id}")).id, id);
    assert_ne!(routes.id(MethodLabel::HEAD, "/users/{id}"), id);
    let route = routes.get(id).unwrap();
    assert_eq!((route.method, &*route.name), ("GET", "/users/{id}"));
}

#[test]
fn routes_over_the_limit_are_counted_as_overflow() {
    let routes = Routes::new(2);
    for name in ["/a", "/b", "/c", "/d", "/a"] {
        routes.id(get(), name);
    }
    assert_eq!(routes.overflowed(), 0, "these were counted elsewhere");
    let task = routes.of_request(MethodLabel::TASK, Some("import"));
    assert_eq!(name_of(&routes, task.id), OVERFLOW);
    let overflow = routes.of_request(get(), Some("/e"));
    assert_eq!((name_of(&routes, overflow.id), overflow.candidate), (OVERFLOW, None));
    assert_eq!(routes.overflowed(), 2);
    assert_eq!(name_of(&routes, routes.of_request(get(), None).id), UNMATCHED);
}

#[test]
fn a_pair_has_a_row_once_an_answer_has_confirmed_it() {
    let routes = Routes::new(2);
    let first = routes.of_request(get(), Some("/a"));
    assert_eq!(first.candidate.as_deref(), Some("/a"));
    assert_eq!(name_of(&routes, first.id), "/a", "reports have its name");
    let row = routes.row(first.id);
    assert_eq!((name_of(&routes, row), routes.get(row).unwrap().method), (UNMATCHED, "GET"));
    assert_eq!(routes.rows()[&row], [row, first.id]);
    routes.confirm(get(), "/a");
    let second = routes.of_request(get(), Some("/a"));
    assert_eq!((second.id, second.candidate), (first.id, None));
    assert_eq!(routes.row(first.id), first.id);
    assert_eq!((routes.rows()[&row].len(), &*routes.rows()[&first.id]), (1, &[first.id][..]));
}

#[test]
fn candidates_take_no_place_of_a_route() {
    let routes = Routes::new(2);
    for number in 0..2 * MAX_CANDIDATES {
        let candidate = routes.of_request(get(), Some(&format!("/{number}")));
        assert!(candidate.candidate.is_some());
        assert_eq!(name_of(&routes, routes.row(candidate.id)), UNMATCHED);
    }
    let late = routes.of_request(get(), Some("/late"));
    assert_eq!(name_of(&routes, late.id), UNMATCHED, "no id is free");
    routes.confirm(get(), &late.candidate.unwrap());
    routes.confirm(get(), "/1");
    let confirmed = ["/late", "/1"].map(|name| routes.of_request(get(), Some(name)));
    for route in confirmed {
        assert_eq!((routes.row(route.id), route.candidate), (route.id, None));
    }
    routes.confirm(get(), "/2");
    let names = ["/2", "/new"].map(|name| routes.of_request(get(), Some(name)));
    assert!(names.iter().all(|route| name_of(&routes, route.id) == OVERFLOW), "{names:?}");
}

#[test]
fn a_task_needs_no_answer() {
    let routes = Routes::new(2);
    let task = routes.of_request(MethodLabel::TASK, Some("import"));
    assert_eq!((routes.row(task.id), task.candidate), (task.id, None));
}

#[test]
fn label_values_are_bounded_and_unambiguous() {
    assert_eq!(label_value("/a\n\"b\\c"), "/a__b_c");
    assert_eq!(label_value(&"é".repeat(1_000)).len(), MAX_NAME_BYTES);
    let routes = Routes::new(8);
    assert_eq!(routes.id(get(), "/a\nb"), routes.id(get(), "/a\\b"));
    assert_eq!(routes.iter().filter(|(_, route)| &*route.name == "/a_b").count(), 1);
}

proptest! {
    #[test]
    fn property_a_label_value_is_bounded_and_unambiguous(name in any::<String>()) {
        let value = label_value(&name);
        prop_assert!(value.len() <= MAX_NAME_BYTES);
        prop_assert!(!value.contains(|c| is_deceptive(c) || matches!(c, '"' | '\\')));
    }
}
