//! Real nginx as a backend, and certificates made by OpenSSL.

use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// Certificates with their keys, PEM.
pub struct Pki {
    /// The authority of all but `own`.
    pub authority: Vec<u8>,
    /// For `backend.example` and 127.0.0.1.
    pub good: Pair,
    /// For `backend.example`, years ago.
    pub expired: Pair,
    /// For `backend.example`, signed by itself, as `openssl req -x509` makes them.
    pub own: Pair,
}

/// A certificate and its key.
pub struct Pair {
    pub certificate: Vec<u8>,
    pub key: Vec<u8>,
}

const NAMES: &str = "subjectAltName=DNS:backend.example,IP:127.0.0.1";
const SIGNING: &str = "[ca]\ndefault_ca=d\n[d]\nnew_certs_dir=.\ndatabase=index\nserial=serial\ndefault_md=sha256\n\
                       policy=p\ncopy_extensions=copy\nunique_subject=no\n[p]\ncommonName=supplied\n";

/// Made once for all tests.
pub fn pki() -> &'static Pki {
    static MADE: OnceLock<Pki> = OnceLock::new();
    MADE.get_or_init(|| {
        let dir = scratch("pki");
        for (name, text) in [("ca.cnf", SIGNING), ("index", ""), ("serial", "01\n")] {
            fs::write(dir.join(name), text).unwrap();
        }
        let read = |name: &str| fs::read(dir.join(name)).unwrap();
        let pair = |name: &str| Pair {
            certificate: read(&format!("{name}.pem")),
            key: read(&format!("{name}.key")),
        };
        openssl(&dir, "req -x509 -days 2 -subj /CN=authority -keyout ca.key -out ca.pem", &[]);
        sign(&dir, "good", "-days 2");
        sign(&dir, "expired", "-startdate 20200101000000Z -enddate 20200102000000Z");
        openssl(&dir, "req -x509 -days 2 -subj /CN=own -keyout own.key -out own.pem", &["-addext", NAMES]);
        let made =
            Pki { authority: read("ca.pem"), good: pair("good"), expired: pair("expired"), own: pair("own") };
        fs::remove_dir_all(dir).unwrap();
        made
    })
}

fn sign(dir: &Path, name: &str, dates: &str) {
    openssl(dir, &format!("req -subj /CN=backend -keyout {name}.key -out {name}.csr"), &["-addext", NAMES]);
    let from = format!("-in {name}.csr -out {name}.pem");
    openssl(
        dir,
        &format!("ca -batch -notext -config ca.cnf -cert ca.pem -keyfile ca.key {from} {dates}"),
        &[],
    );
}

fn openssl(dir: &Path, line: &str, more: &[&str]) {
    const KEYS: [&str; 5] = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];
    let words: Vec<&str> = line.split(' ').collect();
    let keys = if words[0] == "req" { &KEYS[..] } else { &[] };
    let made = Command::new("openssl").args(words).args(keys).args(more).current_dir(dir).output().unwrap();
    assert!(made.status.success(), "{line}: {}", String::from_utf8_lossy(&made.stderr));
}

/// An empty directory of this test's.
fn scratch(name: &str) -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let dir = std::env::temp_dir().join(format!("sluice-{name}-{}-{number}", std::process::id()));
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir(&dir).unwrap();
    dir
}

/// One nginx, which ends with the test.
pub struct Nginx {
    child: Child,
    dir: PathBuf,
    pub address: SocketAddr,
}

impl Nginx {
    /// `server` are the lines of a server block without `listen`; `how` is what follows the address there.
    pub fn start(how: &str, pair: &Pair, server: &str) -> Self {
        let dir = scratch("nginx");
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        fs::write(dir.join("cert.pem"), &pair.certificate).unwrap();
        fs::write(dir.join("key.pem"), &pair.key).unwrap();
        fs::write(dir.join("ca.pem"), &pki().authority).unwrap();
        let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .iter()
            .map(|name| format!("{name}_temp_path {name};\n"))
            .collect();
        let conf = format!(
            "daemon off; master_process off; pid nginx.pid; error_log error.log info;\nevents {{}}\nhttp {{\n\
             access_log off; {temporary}\
             ssl_certificate cert.pem; ssl_certificate_key key.pem;\n\
             server {{ listen {address}{how}; listen unix:{0}/s{how};\n{server}\n}} }}\n",
            dir.display()
        );
        fs::write(dir.join("nginx.conf"), conf).unwrap();
        let binary = std::env::var_os("NGINX_BINARY").unwrap_or_else(|| "nginx".into());
        let child = Command::new(binary)
            .args(["-e", "error.log", "-c", "nginx.conf", "-p"])
            .arg(&dir)
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let nginx = Self { child, dir, address };
        let until = Instant::now() + Duration::from_secs(10);
        while TcpStream::connect(address).is_err() {
            assert!(Instant::now() < until, "nginx does not listen: {}", nginx.log());
            std::thread::sleep(Duration::from_millis(10));
        }
        nginx
    }

    pub fn socket(&self) -> PathBuf {
        self.dir.join("s")
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.join("error.log")).unwrap_or_default()
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.dir);
    }
}
