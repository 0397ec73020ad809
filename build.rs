//! Sets the cfg `stacks_supported` on the targets on which stacks can be captured, and
//! `syscall_names` on those on which there are names of system calls.

use std::env;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-check-cfg=cfg(stacks_supported)");
    if stacks_supported() {
        println!("cargo::rustc-cfg=stacks_supported");
    }
    println!("cargo::rustc-check-cfg=cfg(syscall_names)");
    if syscall_names() {
        println!("cargo::rustc-cfg=syscall_names");
    }
}

fn stacks_supported() -> bool {
    let is = |key: &str, value: &str| env::var(key).is_ok_and(|found| found == value);
    let is_set = |key: &str| env::var_os(key).is_some();
    is_set("CARGO_FEATURE_STACKS")
        // `--cfg tower_stall_no_stacks`: for tests of the platforms that are not supported.
        && !is_set("CARGO_CFG_TOWER_STALL_NO_STACKS")
        && is("CARGO_CFG_TARGET_OS", "linux")
        && (is("CARGO_CFG_TARGET_ENV", "gnu")
            && (is("CARGO_CFG_TARGET_ARCH", "aarch64") || is("CARGO_CFG_TARGET_ARCH", "x86_64"))
            || is("CARGO_CFG_TARGET_ENV", "musl") && is("CARGO_CFG_TARGET_ARCH", "x86_64"))
}

/// The targets of the dependency `syscalls` in Cargo.toml.
fn syscall_names() -> bool {
    let is_linux = env::var("CARGO_CFG_TARGET_OS").is_ok_and(|os| os == "linux");
    let arch = env::var("CARGO_CFG_TARGET_ARCH").unwrap_or_default();
    is_linux && ["aarch64", "arm", "riscv64", "x86", "x86_64"].contains(&arch.as_str())
}
