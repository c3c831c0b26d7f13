# circuit_breaker on every kind of request: WebSocket, uploads that are not buffered, HTTP/2, 500 at one instant; and results
# that come late, or from elsewhere.
use strict;
use warnings;
use lib 't/lib';
use IO::Socket::INET;
use Sluice::Load;
use Sluice::Run;
use Test::More;
use Time::HiRes qw(sleep time);

my ($port, $h2, $back) = (free_port(), free_port(), free_port());
my $info = 'error_log logs/error.log info;';

# A backend that tells in its log what it was asked, and answers as the path says: /502, /sleep/MILLISECONDS, /upgrade (echoes),
# /cut (the connection breaks off in the body).
my $dir = File::Temp::tempdir(CLEANUP => 1);
my $script = <<'PERL';
use IO::Socket::INET; use Time::HiRes 'sleep';
my ($port, $log) = @ARGV;
my $listen = IO::Socket::INET->new(LocalAddr => "127.0.0.1:$port", Listen => 600, ReuseAddr => 1) or die;
$SIG{CHLD} = 'IGNORE';
while (1) {
    my $client = $listen->accept or next;
    next if fork;
    my $head = '';
    while ($head !~ /\r\n\r\n/) { sysread $client, $head, 1, length $head or exit }
    my ($left) = $head =~ /^Content-Length: (\d+)/mi;
    while ($left) { $left -= sysread($client, my $part, $left) || exit }
    my ($path) = $head =~ m{^\S+ (\S+)};
    open my $out, '>>', $log; syswrite $out, "$path\n"; close $out;
    sleep $1 / 1000 if $path =~ m{/sleep/(\d+)};
    if ($path =~ m{/upgrade} && $path !~ m{/502}) {
        syswrite $client, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n";
        while (sysread $client, my $text, 4096) { syswrite $client, $text }
        exit;
    }
    my $length = $path =~ m{/cut} ? 9999 : 2;
    my $status = $path =~ m{/502} ? '502 Bad Gateway' : '200 OK';
    syswrite $client, "HTTP/1.1 $status\r\nContent-Length: $length\r\nCache-Control: max-age=1\r\nConnection: close\r\n\r\nok";
    exit;
}
PERL
my $server = Sluice::Run::run($^X, '-e', $script, $back, "$dir/log");
wait_until(10, sub { IO::Socket::INET->new(PeerAddr => "127.0.0.1:$back") }) or die 'no backend';

sub seen {
    my $pattern = shift;
    my $count = sub { open my $log, '<', "$dir/log" or return 0; scalar grep {/$pattern/} <$log> };
    my ($seen, $same) = ($count->(), 0);
    while ($same < 3) {
        select undef, undef, undef, 0.02;
        my $now = $count->();
        $same = $now == $seen ? $same + 1 : 0;
        $seen = $now;
    }
    return $seen;
}

my $rule = 'failures=3 window=10s open=600ms';
my @names = qw(ws upload h2 crowd lease late own left cut cutplain);
# Some have more time, for what takes some.
my %rules = (late => "$rule lease=9s", h2 => 'failures=3 window=10s open=2500ms lease=900ms');
my $groups = join '', map {"upstream $_ { zone $_ 64k; server 127.0.0.1:$back max_fails=0; circuit_breaker @{[ $rules{$_} // \"$rule lease=900ms\" ]}; }\n"} @names, 'stale';
my $upgrade = 'proxy_http_version 1.1; proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection upgrade; proxy_next_upstream off;';
my $places = join '', map { <<"CONF" } @names;
    location /$_/ { proxy_pass http://$_; $upgrade }
    location /v/$_/ { proxy_pass http://\$$_; $upgrade }
    location /u/$_/ { proxy_pass http://$_; proxy_request_buffering off; proxy_http_version 1.1; }
    location /uv/$_/ { proxy_pass http://\$$_; proxy_request_buffering off; proxy_http_version 1.1; }
CONF
my $maps = join '', map {"map \$uri \$$_ { default $_; }\n"} @names;
my $gateway = gateway(workers => 8, main => $info, http => <<"CONF");
$groups $maps
upstream servers { zone servers 64k; server 127.0.0.1:$back max_fails=0; server localhost:$back max_fails=0 backup; circuit_breaker scope=peer $rule; }
upstream flap { zone flap 64k; server 127.0.0.1:$back max_fails=0; circuit_breaker failures=2 window=10s open=100ms backoff=2 max_open=800ms; }
proxy_cache_path cache keys_zone=c:1m;
rate_limit_zone \$uri zone=none:1m rate=1r/m;
limit_req_zone \$uri zone=none_core:1m rate=1r/m;
client_max_body_size 30m;
server {
    listen 127.0.0.1:$port;
    listen 127.0.0.1:$h2 http2;
    $places
    location /route/ { circuit_breaker route $rule; proxy_pass http://127.0.0.1:$back; $upgrade }
    location /servers/ { proxy_pass http://servers; $upgrade }
    location /cutplain/now { proxy_pass http://cutplain; proxy_buffering off; }
    location /flap/ { proxy_pass http://flap; }
    location /stale/ { proxy_pass http://stale; proxy_cache c; proxy_cache_key \$uri; proxy_cache_use_stale updating error http_502; proxy_cache_background_update on; }
    location /own/limited { rate_limit zone=none; proxy_pass http://own; }
    location /own/core { limit_req zone=none_core; proxy_pass http://own; }
    location /own/denied { deny all; proxy_pass http://own; }
    location /own/large { client_max_body_size 10; proxy_pass http://own; }
    location /own/page { proxy_pass http://own; error_page 502 /page; proxy_intercept_errors on; }
    location = /page { return 503 page; }
}
CONF
sub codes { my ($path, $count, @more) = @_; return [ map { status_of(get($port, $path, @more)) } 1 .. $count ] }
sub trip { my $path = shift; return is_deeply codes("$path/502", 4), [ 502, 502, 502, 503 ], "$path: open" }
sub client {
    my ($text, $to) = @_;
    my $socket = IO::Socket::INET->new(PeerAddr => '127.0.0.1:' . ($to || $port)) or die;
    syswrite $socket, $text;
    return $socket;
}
sub says { my $socket = shift; IO::Select->new($socket)->can_read(5) or return ''; sysread $socket, my $text, 65536; return $text // '' }

# WebSocket: refused before the upgrade while open; as test request its handshake is the result, however long it lasts.
for my $path ('/ws', '/v/ws', '/route') {
    my $hello = "GET $path/upgrade HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n";
    my $before = client($hello);
    like says($before), qr{^HTTP/1.1 101 }, "$path: upgraded";
    syswrite $before, 'ping';
    is says($before), 'ping', "$path: a tunnel";
    (my $bad = $hello) =~ s{/upgrade}{/502/upgrade};
    like says(client($bad)), qr{^HTTP/1.1 502 }, "$path: refused by the backend" for 1 .. 3;
    my $answer = says(client($hello));
    like $answer, qr{^HTTP/1.1 503 }, "$path: open";
    like $answer, qr{^Retry-After: 1\r$}m, "$path: Retry-After";
    syswrite $before, 'pong';
    is says($before), 'pong', "$path: tunnels that stand are left alone";
    sleep 0.65;
    my $test = client($hello);
    like says($test), qr{^HTTP/1.1 101 }, "$path: a WebSocket is the test request";
    ok wait_until(2, sub { codes("$path/x", 1)->[0] == 200 }), "$path: its handshake closed the breaker";
    syswrite $test, 'still';
    is says($test), 'still', "$path: and it goes on";
}
{
    # The servers' breakers: one of two servers of the same address.
    my $hello = "GET /servers/upgrade HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n";
    like says(client($hello)), qr{^HTTP/1.1 101 }, 'servers: upgraded';
    codes('/servers/502', 8);
    sleep 0.65;
    my $test = client($hello);
    like says($test), qr{^HTTP/1.1 101 }, 'servers: a WebSocket is the test request';
    ok wait_until(2, sub { $gateway->log =~ /of server \S+ of upstream "servers" is closed: test request passed/ }), 'servers: closed';
}

# Uploads: refused before the body, buffered or not. With a variable nginx reads a buffered body first.
trip('/upload');
for my $path ('/upload', '/u/upload', '/uv/upload') {
    my $socket = client("POST $path/x HTTP/1.1\r\nHost: a\r\nContent-Length: 20000000\r\n\r\nbegun");
    like says($socket), qr{^HTTP/1.1 503 }, "$path: refused with 20 MB to come";
    $socket = client("POST $path/x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nbegun\r\n");
    like says($socket), qr{^HTTP/1.1 503 }, "$path: in chunks too";
}
is_deeply codes('/v/upload/x', 1, method => 'POST', body => 'x' x 2_000_000), [503], '/v/upload: refused when it is there';
sleep 0.65;
is_deeply codes('/u/upload/x', 1, method => 'POST', body => 'x' x 300_000), [200], 'an upload is the test request';
is_deeply codes('/uv/upload/x', 2, method => 'POST', body => 'x' x 300_000), [ 200, 200 ], 'closed';

# HTTP/2.
SKIP: {
    skip 'curl with HTTP/2 is not installed', 12 if `curl --version 2>/dev/null` !~ /HTTP2/;
    my $curl = "curl -s --http2-prior-knowledge --max-time 9 -o /dev/null -w '%{http_code}\\n'";
    trip('/h2');
    is `$curl 'http://127.0.0.1:$h2$_/h2/x'`, "503\n", "HTTP/2: $_/h2 is refused" for '', '/v', '/u', '/uv';
    ok wait_until(5, sub { `$curl -d body 'http://127.0.0.1:$h2$_/h2/x'` eq "503\n" }), "HTTP/2: $_/h2 with a body" for '', '/v';
    like `curl -s -i --http2-prior-knowledge --max-time 9 'http://127.0.0.1:$h2/v/h2/x'`, qr/^retry-after: [123]\r$/m, 'HTTP/2: Retry-After';
    sleep 2.55;
    my $before = seen('/h2/sleep');
    open my $test, '-|', "$curl 'http://127.0.0.1:$h2/h2/sleep/900'" or die;
    ok wait_until(2, sub { seen('/h2/sleep') > $before }), 'HTTP/2: the test request is out';
    is `$curl 'http://127.0.0.1:$h2/h2/sleep/1'`, "503\n", 'HTTP/2: another is refused';
    is <$test>, "200\n", 'HTTP/2: it passes';
    is `$curl -d body 'http://127.0.0.1:$h2/h2/x'`, "200\n", 'HTTP/2: closed';
}

# 500 at the instant of half-open, on eight workers.
for my $path ('/crowd', '/v/crowd') {
    trip($path);
    sleep 0.65;
    my $before = seen('/crowd/sleep');
    my @answers = burst(500, [$port], "$path/sleep/850", at_once => 500);
    is count_of(200, @answers), 1, "$path: one of 500 passes";
    is count_of(503, @answers), 499, "$path: 499 are refused";
    is seen('/crowd/sleep'), $before + 1, "$path: the backend saw one";
}

# A backend that hangs past the lease: the next one may test, and what the first one brings in the end decides nothing.
{
    trip('/lease');
    sleep 0.65;
    my $hangs = client("GET /lease/sleep/2000/502 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    sleep 0.3;
    is_deeply codes('/lease/x', 1), [503], 'lease: the permit is out';
    sleep 0.65;
    is_deeply codes('/lease/x', 3), [ 200, 200, 200 ], 'lease: another tests, and closes it';
    like says($hangs), qr/^HTTP\S+ 502/, 'lease: the first one fails at last' or diag 'nothing came';
    is_deeply codes('/lease/x', 3), [ 200, 200, 200 ], 'lease: which changes nothing';
    my @said = $gateway->log =~ /upstream "lease" is (open for|half-open|closed)/g;
    is_deeply \@said, [ 'open for', 'half-open', 'closed' ], 'lease: three transitions, three lines';
}

# Answers to what was asked before it opened decide nothing when they come.
{
    my @early = map { client("GET /late/sleep/1600/$_ HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n") } ('x', 'x', 502, 502, 502, 502);
    sleep 0.1;
    trip('/late');
    sleep 0.65;
    my $test = client("GET /late/sleep/2000 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    says($_) for @early;
    is_deeply codes('/late/x', 2), [ 503, 503 ], 'late: neither closed nor opened by them';
    like says($test), qr/^HTTP\S+ 200/, 'late: the test request ends';
    is_deeply codes('/late/x', 2), [ 200, 200 ], 'late: and closes it';
    my @said = $gateway->log =~ /upstream "late" is (open for|half-open|closed)/g;
    is_deeply \@said, [ 'open for', 'half-open', 'closed' ], 'late: three transitions';
}

# What this nginx says itself is no outcome, and nor is a client that leaves.
{
    codes("/own/$_", 6) for 'limited', 'core', 'denied';
    codes('/own/large', 6, method => 'POST', body => 'x' x 99);
    is_deeply codes('/own/x', 1), [200], 'own 429, 503, 403, 413: closed';
    for (1 .. 5) {
        my $socket = client("GET /left/sleep/200/502 HTTP/1.1\r\nHost: a\r\n\r\n");
        sleep 0.05;
        close $socket;
    }
    sleep 0.4;
    is_deeply codes('/left/x', 2), [ 200, 200 ], 'clients that left: closed';
    is_deeply codes('/own/page/502', 4), [ 502, 502, 502, 503 ], 'error_page of our own';
    is seen('/own/page/502'), 3, 'counts by what the upstream said';
}

# A stale copy is served while open, and its update in the background asks nobody.
{
    is_deeply codes('/stale/a', 1), [200], 'stale: cached';
    is_deeply [ map { @{ codes("/stale/$_/502", 1) } } 1 .. 4 ], [ 502, 502, 502, 503 ], 'stale: open';
    sleep 1.1;
    codes('/stale/9/502', 1);
    my $before = seen('/stale');
    is_deeply codes('/stale/a', 4), [ (200) x 4 ], 'stale: served';
    is seen('/stale'), $before, 'stale: the backend is left alone';
}

# A body that breaks off is a failure, though its header was good.
for my $path ('/cut/cut', '/cutplain/now/cut') {
    is_deeply codes($path, 4), [ 200, 200, 200, 503 ], "$path: three answers broke off";
}
like $gateway->log, qr/upstream "cut" is open for 0\.6 s: 3 failures in \d+\.\d+ s, last error/, 'cut: log';

# An upstream that fails and recovers in turns is left alone for longer and longer, and the log stays short.
{
    for (my $began = time; time - $began < 2; sleep 0.01) {
        get($port, int((time - $began) / 0.25) % 2 ? '/flap/x' : '/flap/502');
    }
    my @stays = $gateway->log =~ /upstream "flap" is open for (\d+\.\d+) s/g;
    cmp_ok scalar(@stays), '<=', 9, "flap: opened @{[ scalar @stays ]} times";
    cmp_ok((sort { $b <=> $a } @stays)[0], '>=', 0.2, "flap: @stays");
    cmp_ok((sort { $b <=> $a } @stays)[0], '<=', 0.8, 'flap: up to max_open');
    my $lines = () = $gateway->log =~ /\[(?:warn|notice)\][^\n]* upstream "flap" is/g;
    cmp_ok $lines, '<=', 3 * @stays + 2, "flap: $lines lines";
}

ok $gateway->quit('TERM'), 'ended';
unlike $gateway->log, qr/\[(?:emerg|crit|alert)\](?!.*open socket)|panic|exited on signal/, 'nothing bad in the log';
done_testing;
