# Who tests a breaker that is half-open, and when the test has its result: subrequests where there is nobody else, uploads, streams,
# hanging backends; what is no result at all; and what clients are told meanwhile.
use strict;
use warnings;
use lib 't/lib';
use Sluice::Load;
use Sluice::Run;
use IO::Socket::INET;
use JSON::PP;
use Test::More;
use Time::HiRes qw(time sleep);

my ($port, $back, $silent) = (free_port(), free_port(), free_port());
my $hangs = IO::Socket::INET->new(LocalAddr => '127.0.0.1', LocalPort => $silent, Listen => 128, ReuseAddr => 1) or die "listen: $!\n";
my $up    = "server 127.0.0.1:$back max_fails=0; circuit_breaker failures=2 open=600ms";
my $gateway = gateway(workers => 1, main => 'error_log logs/error.log info;', http => <<"CONF");
proxy_cache_path html/cache keys_zone=cache:1m;
upstream auth   { $up; }
upstream apart  { $up; }
upstream stale  { $up; }
upstream pages  { $up half_open=2; }
upstream upload { $up; }
upstream stream { $up; }
upstream body   { $up; }
upstream full   { zone full 64k; server 127.0.0.1:$back max_conns=1 max_fails=0; circuit_breaker failures=2 open=30s; }
upstream down   { zone down 64k; server 127.0.0.1:$back max_fails=0; circuit_breaker failures=2 open=30s; }
upstream dead   { server 127.0.0.1:1; server 127.0.0.1:2; circuit_breaker failures=4 open=30s; }
upstream hangs  { server 127.0.0.1:$silent max_fails=0; circuit_breaker failures=0 slow_call=50ms slow_rate=50% min_calls=4 open=30s; }
upstream lease  { server 127.0.0.1:$silent max_fails=0; circuit_breaker failures=1 open=200ms; }
upstream long   { server 127.0.0.1:$back max_fails=0; circuit_breaker failures=2 open=20s; }
upstream fall   { $up; }
upstream peer   { server 127.0.0.1:$back; server 127.0.0.1:1; circuit_breaker scope=peer failures=5 window=30s; }
upstream fine   { server 127.0.0.1:$back max_fails=0; server 127.0.0.1:1 max_fails=0; circuit_breaker scope=peer; }
server {
    listen 127.0.0.1:$port;
    location /api { api write=on; allow 127.0.0.1; }
    location /auth/ { auth_request /auth/check; proxy_pass http://auth; }
    location = /auth/check { internal; proxy_pass http://auth/ok; }
    location /apart/ { auth_request /apart/check; empty_gif; }
    location = /apart/check { internal; proxy_pass http://apart/ok; }
    location /apart/trip { proxy_pass http://apart; }
    location /stale/ { proxy_cache cache; proxy_cache_valid 200 1s; proxy_cache_use_stale error updating http_503; proxy_cache_background_update on; proxy_pass http://stale; }
    location /stale/trip { proxy_pass http://stale; }
    location /pages/ { ssi on; ssi_types *; proxy_pass http://pages; }
    location /upload/ { client_body_timeout 20s; proxy_pass http://upload; }
    location /stream/ { proxy_buffering off; proxy_pass http://stream; }
    location /body/ { proxy_buffering off; proxy_read_timeout 1s; proxy_pass http://body; }
    location /full/ { proxy_pass http://full; }
    location /down/ { proxy_pass http://down; }
    location /dead/ { proxy_pass http://dead; }
    location /hangs/ { proxy_read_timeout 120ms; proxy_pass http://hangs; }
    location /lease/ { proxy_connect_timeout 300ms; proxy_read_timeout 1s; proxy_pass http://lease; }
    location /both/ { circuit_breaker short failures=2 open=1s; proxy_pass http://long; }
    location /fall/ { error_page 503 = \@fall; proxy_pass http://fall; }
    location \@fall { rewrite ^ /busy break; proxy_pass http://127.0.0.1:$back; }
    location /peer/ { proxy_pass http://peer; }
    location /fine/ { proxy_pass http://fine; }
}
log_format seen '\$request_uri \$status';
server {
    listen 127.0.0.1:$back;
    access_log logs/seen seen;
    location / { if (-f \$document_root/broken) { return 502; } default_type text/plain; alias html/; try_files /page =404; }
    location /ok { return 200 ok; }
    location ~ /slow { if (-f \$document_root/broken) { return 502; } set \$limit_rate 100; return 200 "@{[ 'x' x 1200 ]}"; }
    location ~ /busy { add_header Retry-After 120 always; add_header Cache-Control max-age=5 always; return 503 busy; }
    location ~ /trip { return 502; }
    location ~ /pages/part { if (-f \$document_root/broken) { return 502; } return 200 [part]; }
    location ~ /pages/include { if (-f \$document_root/broken) { return 502; } default_type text/html; return 200 '<!--#include virtual="/pages/part" --><!--#include virtual="/pages/part" -->'; }
}
CONF
my $html = "$gateway->{dir}/html";
Sluice::Run::spew("$html/page", 'page');
sub broken { return $_[0] ? Sluice::Run::spew("$html/broken", '') : unlink "$html/broken" }
sub codes  { my ($path, $n) = @_; return join ' ', map { status_of(get($port, $path)) } 1 .. $n }
sub state_of { my ($document) = body_of(get($port, "/api/9/http/circuit_breakers/$_[0]")); return eval { decode_json($document) } || {} }
sub seen { my $path = shift; open my $file, '<', "$gateway->{dir}/logs/seen" or return 0; return scalar grep {/^\Q$path\E/} <$file> }
sub client { my $text = shift; my $socket = IO::Socket::INET->new(PeerAddr => "127.0.0.1:$port") or die; print {$socket} $text; return $socket }

# A stream of a test goes on for longer than anybody is to wait: begun first, looked at last.
broken(1);
is codes("/stream/x", 2), '502 502', 'stream: trips';
broken(0);
sleep 0.65;
my $begun  = time;
my $stream = client("GET /stream/slow HTTP/1.0\r\n\r\n");
sleep 0.3;
is codes('/stream/x', 1), '503', 'stream: the permit is out';

# All requests ask for leave first, by a subrequest: that tests.
broken(1);
is codes('/auth/x', 2), '502 502', 'auth_request: the content trips';
is codes('/auth/x', 1), '500', 'auth_request: nobody gets leave';
broken(0);
sleep 0.65;
is codes('/auth/x', 3), '200 200 200', 'auth_request: its subrequest tests, and all goes on';
is codes('/apart/trip', 2), '502 502', 'auth_request alone: others trip';
is codes('/apart/x', 1), '500', 'auth_request alone: refused';
sleep 0.65;
is codes('/apart/x', 2), '200 200', 'auth_request alone: tests';

# An update in the background is all that reaches the backend.
is codes('/stale/x', 1), '200', 'background update: cached';
sleep 1.6;
is codes('/stale/trip', 2), '502 502', 'background update: others trip';
sleep 0.65;
my $before = seen('/stale/x');
is codes('/stale/x', 1), '200', 'background update: the stale copy is served';
ok wait_until(2, sub { seen('/stale/x') > $before }), 'background update: and it tests';
ok wait_until(2, sub { (state_of('stale')->{state} // '') eq 'closed' }), 'background update: and closes it';

# What belongs to a test passes with it.
broken(1);
is codes('/pages/include', 2), '502 502', 'parts: trips';
broken(0);
sleep 0.65;
like body_of(get($port, '/pages/include')), qr/\[part\]\W+(?:6\W+)?\[part\]/, 'parts: a page that tests comes whole';

# Who has only begun to send a body holds nobody up.
broken(1);
is codes('/upload/x', 2), '502 502', 'upload: trips';
broken(0);
like get($port, '/upload/x', method => 'POST', body => 'x' x 100_000), qr/ 503 /, 'upload: open, refused at once';
sleep 0.65;
my $upload = client("POST /upload/x HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 5\r\n\r\nab");
sleep 0.2;
is codes('/upload/x', 2), '200 200', 'upload: others test meanwhile';
print {$upload} 'cde';
like join('', <$upload>), qr/ (?:200|405) /, 'upload: and it comes through';

# No result: the server is full, or taken out by hand. That max_fails has put all aside is one.
$hangs->blocking(1);
my $one = client("GET /full/slow HTTP/1.0\r\n\r\n");
ok wait_until(2, sub { codes('/full/x', 1) eq '502' }), 'max_conns: full';
is codes('/full/x', 6), '502 502 502 502 502 502', 'max_conns: no matter how often';
is state_of('full')->{state}, 'closed', 'max_conns: closed';
close $one;
ok wait_until(5, sub { codes('/full/x', 1) eq '200' }), 'max_conns: free again, served at once';
my $server = '/api/9/http/upstreams/down/servers/0';
is status_of(get($port, $server, method => 'PATCH', body => '{"down": true}', 'Content-Type' => 'application/json')), 200, 'down by hand';
is codes('/down/x', 6), '502 502 502 502 502 502', 'down: nobody to ask';
get($port, $server, method => 'PATCH', body => '{"down": false}', 'Content-Type' => 'application/json');
is codes('/down/x', 1), '200', 'down: and served at once when it is back';
is codes('/dead/x', 5), '502 502 502 502 503', 'max_fails: all have failed, so it trips';

# A backend that hangs is slow; and its result comes within the lease, which is as long as the location waits.
is codes('/hangs/x', 5), '504 504 504 504 503', 'hanging: slow_rate trips';
my $slow = state_of('hangs');
is_deeply [ @{ $slow->{counters} || $slow }{qw(slow)} ], [4], 'hanging: counted as slow' or diag explain $slow;
is codes('/lease/x', 1), '504', 'lease: trips';
sleep 0.25;
is codes('/lease/x', 1), '504', 'lease: a test that hangs';
is codes('/lease/x', 1), '503', 'lease: has its result, and opens it anew';
my $metrics = state_of('lease');
is $metrics->{counters}{late} // $metrics->{late}, 0, 'lease: none was late' or diag explain $metrics;

# Two breakers: the client is told of the longer.
is codes('/both/trip', 2), '502 502', 'both: trip';
my $answer = get($port, '/both/x');
cmp_ok header_of($answer, 'Retry-After'), '>', 15, 'both: Retry-After is that of the one that stays open';

# The server of a fallback has its own words.
broken(1);
is codes('/fall/x', 1), '502', 'fallback: fails';
is codes('/fall/x', 1), '502', 'fallback: trips';
broken(0);
$answer = get($port, '/fall/x');
is_deeply [ status_of($answer), header_of($answer, 'Retry-After'), header_of($answer, 'Cache-Control') ], [ 503, 120, 'max-age=5' ], 'fallback: its own Retry-After';

like $gateway->log, qr/\[warn\] [^\n]*upstream "peer": after 4 failures in 30 s max_fails has put a server aside, and its breaker waits for 5: write max_fails=0/, 'max_fails in the way: said';
unlike $gateway->log, qr/upstream "fine": after/, 'not where it is off';

# The stream, by now.
ok wait_until(8, sub { codes('/stream/x', 1) eq '200' }), 'stream: others are served';
my $took = time - $begun;
cmp_ok $took, '>', 4.9, sprintf 'stream: its header decides, after %.1f s', $took;
cmp_ok $took, '<', 9, 'stream: which is before its end' if $took < 11;
close $stream;

# A body that breaks off after that is a failure, and no more.
ok $gateway->quit, 'quit';
unlike $gateway->log, qr/\[(?:emerg|alert|crit)\]|panic|exited on signal/, 'nothing bad in the log';
done_testing;
