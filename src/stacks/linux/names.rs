//! Makes the names of functions readable.

/// The most characters of a name.
const MAX_LENGTH: usize = 120;

/// Returns a name as its author wrote it: without type parameters and the compiler's closures, and
/// not longer than fits in a line.
///
/// An async function, for instance, is compiled to a closure, which is part of the name.
pub(super) fn readable(name: &str) -> String {
    let name = without_parameters(name);
    let name = unqualified(&name);
    let name = without_closures(name.strip_prefix("{impl#").map_or(&name, after_impl));
    shorten(name)
}

/// Returns whether a name has no path.
pub(super) fn is_bare(name: &str) -> bool {
    !name.contains("::")
}

/// Removes type parameters, `f<T>` and `f::<T>`. Keeps `<T as Trait>::f`.
fn without_parameters(name: &str) -> String {
    let mut kept = String::with_capacity(name.len());
    let mut depth = 0_usize;
    let mut previous = ' ';
    for c in name.chars() {
        match c {
            // Parameters follow a name; the type of an `impl` follows nothing.
            '<' if depth > 0
                || previous.is_alphanumeric()
                || matches!(previous, '_' | ':' | '}') =>
            {
                if depth == 0 && kept.ends_with("::") {
                    kept.truncate(kept.len() - 2);
                }
                depth += 1;
            }
            '>' if depth > 0 && previous != '-' => depth -= 1,
            _ if depth == 0 => kept.push(c),
            _ => {}
        }
        previous = c;
    }
    kept
}

/// Replaces `<path::Type>::f` by `path::Type::f`.
fn unqualified(name: &str) -> String {
    let inner = name.strip_prefix('<').and_then(|rest| rest.split_once('>'));
    match inner {
        Some((path, rest)) if !path.contains([' ', '<', '[', '(', '&']) => format!("{path}{rest}"),
        _ => name.to_owned(),
    }
}

/// Returns what follows the number of an `impl`, `5}::poll`.
fn after_impl(rest: &str) -> &str {
    rest.split_once("}::").map_or(rest, |(_, name)| name)
}

/// Removes the closures at the end of a path.
fn without_closures(mut name: &str) -> &str {
    while let Some((path, last)) = name.rsplit_once("::") {
        if !(last.starts_with('{') && last.ends_with('}')) || last.contains("vtable") {
            break;
        }
        name = path;
    }
    name
}

/// Cuts off the beginning of a name that is too long: the end is the function's own name.
fn shorten(name: &str) -> String {
    let length = name.chars().count();
    if length <= MAX_LENGTH {
        return name.to_owned();
    }
    std::iter::once('…').chain(name.chars().skip(length - MAX_LENGTH + 1)).collect()
}

#[cfg(not(tower_stall_loom))]
#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_the_one_that_its_author_wrote() {
        for (name, expected) in [
            ("demo::blocking::report::{{closure}}", "demo::blocking::report"),
            ("demo::report::{{closure}}::{{closure}}", "demo::report"),
            ("demo::blocking::report::{async_fn#0}", "demo::blocking::report"),
            ("demo::blocking::report::{closure#0}::<u8>", "demo::blocking::report"),
            ("demo::main", "demo::main"),
            ("{async_fn#0}", "{async_fn#0}"),
            ("{async_fn#0}<alloc::vec::Vec<u8>>", "{async_fn#0}"),
            ("poll<demo::f::{async_fn_env#0}, alloc::sync::Arc<u8>>", "poll"),
            (
                "tokio::runtime::task::raw::poll::<demo::f, fn() -> u8>",
                "tokio::runtime::task::raw::poll",
            ),
            ("<tokio::runtime::Context>::run", "tokio::runtime::Context::run"),
            ("<demo::Pool<u8> as core::ops::Drop>::drop", "<demo::Pool as core::ops::Drop>::drop"),
            ("{impl#5}::poll<u8>", "poll"),
            ("<[u8] as demo::Encode>::encode", "<[u8] as demo::Encode>::encode"),
            ("__libc_read", "__libc_read"),
        ] {
            assert_eq!(readable(name), expected);
        }
    }

    #[test]
    fn a_long_name_keeps_its_end() {
        let name = readable(&format!("{}::handler", "module::".repeat(40)));
        assert_eq!(name.chars().count(), MAX_LENGTH);
        assert!(name.starts_with('…') && name.ends_with("module::::handler"));
    }
}
