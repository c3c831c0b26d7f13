# What scripts/pictures draws: dashboard.pl SECONDS DIR. A gateway with trouble of each kind, and the dashboard over it; 0 seconds: it
# only runs, until it is interrupted.
use strict;
use warnings;
use Sluice::Browser;
use Sluice::Run;
use Time::HiRes qw(sleep time);

$| = 1;
my ($seconds, $dir) = @ARGV;
my $port  = free_port();
my $redis = redis();
# Addresses as they would be in a network of one's own, all of this host.
my %at = (api => [ map {"127.0.5.$_"} 11 .. 14 ], checkout => [ map {"127.0.7.$_"} 21, 22 ], customer => [ map {"127.0.6.$_"} 11 .. 13 ]);
my @all = map {@$_} values %at;

my $ok       = '{"status":"ok","checks":{"database":{"status":"ok","latency":12}}}';
my $backends = gateway(http => "server { @{[ map {\"listen $_:8080; \"} @all ]}" . <<'CONF');
    location = /health { default_type application/json; root html; try_files /$server_addr.json =503; }
    location / {
        if (-f $document_root/failing-$server_addr) { return 502; }
        if ($arg_missing) { return 404; }
        return 200 "@";
    }
}
CONF
sub health { Sluice::Run::spew("$backends->{dir}/html/$_[0].json", $_[1]) }
health($_, $ok) for @all;

sub servers { join ' ', map {"server $_:8080 max_fails=0 slow_start=60s;"} @{ $at{ $_[0] } } }
my $gateway = gateway(workers => 2, http => <<"CONF");
redis main { server 127.0.0.1:$redis->{port}; }
match health { status 200; json \$.status = ok; json \$.checks.database.status = ok; }
ban_zone \$binary_remote_addr zone=abusers:1m redis=main;
proxy_cache_path cache keys_zone=assets:1m max_size=1g;
rate_limit_zone \$arg_client zone=per_client:1m rate=600r/m burst=20 redis=main sync=lease;
rate_limit_zone \$arg_key zone=per_key:1m rate=240r/m burst=10;
upstream api { zone api 256k; @{[ servers('api') ]} circuit_breaker failures=0 consecutive=20 window=30s; circuit_breaker scope=peer failures=5 window=30s open=30s; }
upstream checkout { zone checkout 256k; @{[ servers('checkout') ]} circuit_breaker failures=5 window=30s open=30s; }
upstream customer { zone customer 256k; @{[ servers('customer') ]} }
server {
    listen 127.0.0.1:$port;
    status_zone gateway;
    location /api { status_zone api; rate_limit zone=per_key nodelay; proxy_pass http://api; proxy_next_upstream error timeout http_502; health_check uri=/health match=health interval=1s; }
    location /checkout { status_zone checkout; proxy_pass http://checkout; health_check uri=/health match=health interval=1s; }
    location /customer { status_zone customer; rate_limit zone=per_client nodelay; ban zone=abusers status=401 count=5 window=60s duration=600s; proxy_pass http://customer; health_check uri=/health match=health interval=1s; }
    location /assets { proxy_pass http://customer; proxy_cache assets; proxy_cache_valid 200 20s; }
    location /gateway/api { api write=on; allow 127.0.0.1; deny all; }
    location = / { dashboard api=/gateway/api; }
}
CONF

# A little load, from a process of its own: SIGTERM ends it.
sub load {
    my ($pause, $path) = @_;
    my $pid = fork // die "fork: $!\n";
    return $pid if $pid;
    for (my $n = 0; ; $n++) {
        get($port, $path->($n));
        sleep $pause * (0.4 + rand 1.2) * (1 + 0.5 * sin(time / 40));
    }
}
my @load = (
    load(0.03, sub { '/api?key=' . ($_[0] % 3) . ($_[0] % 97 ? '' : '&missing=1') }),
    load(0.06, sub { '/customer?client=' . ($_[0] % 9) }),
    load(0.2,  sub { '/checkout' }),
    load(0.1,  sub { '/assets/' . $_[0] % 7 }),
);
END { kill 'TERM', @load if @load }
$SIG{INT} = $SIG{TERM} = sub { exit 1 };

sub trouble {
    health($at{checkout}[0], '{"status":"ok","checks":{"database":{"status":"down","latency":0}}}');
    Sluice::Run::spew("$backends->{dir}/html/failing-$at{api}[2]", '');
    my @write = (method => 'PATCH', 'Content-Type' => 'application/json');
    get($port, '/gateway/api/9/http/upstreams/customer/servers/1', @write, body => '{"drain":true}');
    @write = (method => 'POST', 'Content-Type' => 'application/json');
    get($port, '/gateway/api/9/http/bans/abusers', @write, body => $_) for '{"key":"203.0.113.9","duration":"1h","reason":"scraping, ticket 4711"}', '{"key":"2001:db8::17","duration":"10m","reason":"guesses passwords"}';
    @write = (method => 'PATCH', 'Content-Type' => 'application/json');
    get($port, '/gateway/api/9/http/circuit_breakers/checkout', @write, body => '{"override":"closed","ttl":"30m","reason":"deploy 42"}');
}
if (!$seconds) {
    trouble();
    print "http://127.0.0.1:$port/\n";
    sleep 3600 while 1;
}

my $browser = Sluice::Browser->new;
$browser->size(1280, 1000);
$browser->open("http://127.0.0.1:$port/");
sleep $seconds - 25;
trouble();
sleep 25;
my $whole = $browser->js('return document.documentElement.scrollHeight');
$browser->size(1280, $whole > 1640 ? 1640 : $whole);
$browser->screenshot("$dir/dashboard.png");
$browser->devtools('Emulation.setEmulatedMedia', features => [ { name => 'prefers-color-scheme', value => 'dark' } ]);
$browser->size(1280, 1000);
$browser->screenshot("$dir/dashboard-dark.png");
$browser->devtools('Emulation.setEmulatedMedia', features => []);
$browser->size(360, 1000, 2);
$browser->screenshot("$dir/dashboard-phone.png");
$browser->close;
