//! Has the sources show what is there to be fuzzed.

fn main() {
    println!("cargo::rustc-cfg=sluice_fuzz");
    println!("cargo::rerun-if-changed=build.rs");
}
