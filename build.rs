//! Turns what nginx-sys learnt about the nginx being built against into `cfg`s; nothing else.

/// Versions at which something this module relies on changed. Only src/nginx/sys.rs and what is below it use them.
const VERSIONS: &[(&str, u32)] = &[
    ("nginx1_23_0", 1_023_000), // headers are linked lists
    ("nginx1_27_3", 1_027_003), // reference-counted peers, `resolve` in upstreams
    ("nginx1_29_6", 1_029_006), // `sticky`, `route=`, `drain` in the core
];

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=DEP_NGINX_VERSION_NUMBER");
    let version: u32 =
        std::env::var("DEP_NGINX_VERSION_NUMBER").ok().and_then(|v| v.parse().ok()).unwrap_or_default();
    for (cfg, since) in VERSIONS {
        println!("cargo::rustc-check-cfg=cfg({cfg})");
        if version >= *since {
            println!("cargo::rustc-cfg={cfg}");
        }
    }
    for feature in std::env::var("DEP_NGINX_FEATURES").unwrap_or_default().split(',') {
        println!("cargo::rustc-cfg=ngx_feature=\"{}\"", feature.trim());
    }
}
