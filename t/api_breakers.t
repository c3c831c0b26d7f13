# /http/circuit_breakers: an operator overrules a breaker for a time and for a reason, ends that, and resets it; of upstreams, of
# servers and of routes; for all workers, over a reload and the death of workers.
use strict;
use warnings;
use lib 't/lib';
use Sluice::Run;
use JSON::PP;
use Test::More;
use Time::HiRes ();

my ($port, $one, $two) = map { free_port() } 1 .. 3;
my @backends = map { my $p = $_; backend(port => $p, server => "location / { return 200 '$p'; } location /bad { return 500; }") } $one, $two;
my @conf = (workers => 2, main => 'error_log logs/error.log notice;', http => <<"CONF");
upstream app { zone app 128k; server 127.0.0.1:$one; server 127.0.0.1:$two; circuit_breaker failures=3 window=60s open=60s; circuit_breaker scope=peer failures=32; }
upstream free { zone free 64k; server 127.0.0.1:$one; }
server {
    listen 127.0.0.1:$port;
    location /api { api write=on; allow 127.0.0.1; deny all; }
    location /read { api; }
    location / { proxy_pass http://app; }
    location /state { proxy_pass http://app; add_header X-State \$circuit_breaker_state always; }
    location /route { circuit_breaker pay failures=2; proxy_pass http://free; }
}
CONF
my $gateway = gateway(@conf);

sub api {
    my ($method, $path, $body) = @_;
    my %of = (method => $method);
    @of{qw(body Content-Type)} = (ref $body ? encode_json($body) : $body, 'application/json') if defined $body;
    my $answer = get($port, "/api/9/http/circuit_breakers/$path", %of);
    return (status_of($answer), length body_of($answer) ? decode_json(body_of($answer)) : undef);
}
sub breaker { return (api(GET => shift))[1] }
sub patch { return api(PATCH => @_) }
# all($n, $path): the statuses of so many requests, each once.
sub all { my ($n, $path) = @_; my %seen; $seen{ status_of(get($port, $path)) }++ for 1 .. $n; return join ' ', sort keys %seen }

# --- an upstream
is all(6, '/'), 200, 'all is well';
my ($status, $document) = patch('app', { override => 'open', ttl => '10m', reason => 'deploy 42' });
is $status, 200, 'an operator opens the breaker';
is $document->{state}, 'forced_open', 'so it is open';
is_deeply [ $document->{override}->@{qw(state reason by)} ], [ 'open', 'deploy 42', '127.0.0.1' ], 'with a reason';
like $document->{override}{$_}, qr/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/, "with $_" for qw(until since);
is_deeply [ map { breaker('app')->{override}{reason} } 1 .. 6 ], [ ('deploy 42') x 6 ], 'as every worker says';
is all(6, '/'), 503, 'and every worker refuses';
cmp_ok header_of(get($port, '/'), 'Retry-After'), '>', 500, 'until the end';
patch('app', { override => 'open' });
is header_of(get($port, '/'), 'Retry-After'), 60, 'for as long as `open`, when nobody knows';
is header_of(get($port, '/state'), 'X-State'), 'forced_open', '$circuit_breaker_state';
(undef, $document) = patch('app', { override => 'closed' });
is header_of(get($port, '/state'), 'X-State'), 'forced_closed', '$circuit_breaker_state';
is_deeply [ $document->{state}, $document->{override}{until}, $document->{override}{reason} ], [ 'forced_closed', undef, '' ], 'closed, without an end';
is all(6, '/bad'), 500, 'failures do not open it';
is all(2, '/'), 200, 'it serves';
(undef, $document) = patch('app/', { override => 'dry_run', ttl => 60 });
is $document->{override}{state}, 'dry_run', 'a dry run';
is all(6, '/bad'), 500, 'refuses nobody';
(undef, $document) = patch('app', { override => 'none' });
is $document->{override}, undef, 'it is let go';
get($port, '/bad') for 1 .. 4;
is breaker('app')->{state}, 'open', 'and opens by itself';
is all(6, '/'), 503, 'and refuses';
($status, $document) = api(POST => 'app/reset');
is_deeply [ $status, $document->{state} ], [ 200, 'closed' ], 'it is reset';
is all(6, '/'), 200, 'and serves';
patch('app', { override => 'open', ttl => '300ms', reason => 'short' });
is all(2, '/'), 503, 'for 300 milliseconds';
ok wait_until(3, sub { all(1, '/') eq 200 }), 'and no longer';
is breaker('app')->{override}, undef, 'then it has gone';

# --- a server
my ($id) = grep { breaker('app')->{peers}{$_}{server} eq "127.0.0.1:$one" } keys %{ breaker('app')->{peers} };
($status, $document) = patch("app/$id", { override => 'open', reason => 'disk' });
is_deeply [ $status, $document->{server}, $document->{state}, $document->{override}{reason} ], [ 200, "127.0.0.1:$one", 'forced_open', 'disk' ], 'a server is taken out';
ok wait_until(3, sub { 6 == grep { body_of(get($port, '/')) eq $two } 1 .. 6 }), 'the other one serves';
is breaker('app')->{override}, undef, 'the upstream is its own';
my ($other) = grep { $_ ne $id } keys %{ breaker('app')->{peers} };
patch("app/$other", { override => 'open', ttl => '10m' });
is status_of(get($port, '/')), 502, 'a server that an operator has taken out stays out when no other is left';
api(POST => "app/$other/reset");
api(POST => 'app/reset');
ok wait_until(3, sub { 6 == grep { body_of(get($port, '/')) eq $two } 1 .. 6 }), 'the other one serves again';
is((api(POST => "app/$id/reset"))[1]{state}, 'closed', 'it is reset');
ok wait_until(3, sub { grep { body_of(get($port, '/')) eq $one } 1 .. 4 }), 'and serves again';

# --- a route
is((patch('route:pay', { override => 'open', ttl => '10m', reason => 'fraud' }))[1]{override}{reason}, 'fraud', 'a route is closed to all');
is all(4, '/route'), 503, 'it is';
is all(4, '/'), 200, 'others are not';

# --- reload and death
patch('app', { override => 'open', ttl => '10m', reason => 'kept' });
my $before = breaker('app')->{override};
ok $gateway->reload, 'nginx reloads';
my $after = breaker('app')->{override};
is_deeply [ $after->@{qw(state reason by since)} ], [ $before->@{qw(state reason by since)} ], 'what was said is kept';
is substr($after->{until}, 0, 18), substr($before->{until}, 0, 18), 'until the same time' or diag "$before->{until} $after->{until}";
is all(4, '/'), 503, 'and in force';
is breaker('route:pay')->{override}{reason}, 'fraud', 'that of the route too';
kill 'KILL', $gateway->workers;
ok wait_until(5, sub { my @workers = $gateway->workers; @workers == 2 && status_of(get($port, '/')) == 503 }), 'workers die, and it is in force';
is breaker('app')->{override}{reason}, 'kept', 'for its reason';
$gateway->reload for 1 .. 3;
is breaker('app')->{override}{reason}, 'kept', 'reload after reload';
patch($_, { override => 'none' }) for 'app', 'route:pay';

# --- why it is open
is all(3, '/bad'), 500, 'it fails';
like breaker('app')->{reason}, qr/^3 failures in \d+\.\d+ s, last http_500$/, 'why it is open';
is((api(POST => 'app/reset'))[0], 200, 'reset');
is breaker('app')->{reason}, '', 'nothing to say';

# --- what is refused
for my $case ([ {}, 'missing "override" argument' ], [ { override => 'half' }, 'invalid value of "override"' ], [ { override => 'open', ttl => 'soon' }, 'invalid value of "ttl"' ], [ { override => 'open', ttl => 0 }, 'invalid value of "ttl"' ],
    [ { override => 'open', ttl => -5 }, 'invalid value of "ttl"' ], [ { override => 'open', ttl => '31d' }, 'invalid value of "ttl"' ], [ { override => 'open', why => 1 }, 'unknown parameter "why"' ], [ [], 'the body must be an object' ])
{
    my ($status, $document) = patch('app', $case->[0]);
    is_deeply [ $status, $document->{error}->@{qw(code text)} ], [ 400, 'CircuitBreakerFormatError', $case->[1] ], encode_json($case->[0]);
}
is((patch('app', '{'))[0], 415, 'no JSON');
is_deeply [ (api(@$_))[0] ], [404], "$_->[0] $_->[1]" for [ PATCH => 'none', { override => 'open' } ], [ PATCH => 'app/99', { override => 'open' } ], [ POST => 'none/reset' ], [ PATCH => 'free', { override => 'open' } ],
    [ GET => 'app/0/more' ], [ PATCH => 'route:none', { override => 'open' } ];
is_deeply [ (api(@$_))[0] ], [405], "$_->[0] $_->[1]" for [ POST => 'app' ], [ DELETE => 'app' ], [ GET => 'app/reset' ], [ PATCH => 'app/reset', { override => 'open' } ], [ POST => '' ];
is status_of(get($port, '/read/9/http/circuit_breakers/app', method => 'PATCH', body => '{"override":"open"}', 'Content-Type' => 'application/json')), 405, 'where nobody may write nobody overrules';
is status_of(get($port, '/read/9/http/circuit_breakers/app/reset', method => 'POST')), 405, 'nor resets';
is breaker('app')->{override}, undef, 'and nothing of that has changed anything';
patch('app', { override => 'closed', ttl => '1s', reason => "<script>\n\e[31m" . "\x{e9}" x 300 });
is_deeply [ length(breaker('app')->{override}{reason}) <= 152, breaker('app')->{override}{reason} =~ /^<script>/ ? 1 : 0 ], [ !!1, 1 ], 'a long reason is cut';

# --- who did what
my @events = grep { $_->{kind} eq 'control' } @{ decode_json(body_of(get($port, '/api/9/events')))->{events} };
is_deeply [ $events[0]->@{qw(upstream peer from to text)} ], [ 'app', '', 'closed', 'forced_open', 'overruled for 600s, by 127.0.0.1: deploy 42' ], 'each is an event';
is scalar(grep { $_->{text} eq 'overruled, without an end, by 127.0.0.1' } @events), 2, 'that says when there is no end';
is scalar(grep { $_->{peer} eq "127.0.0.1:$one" } @events), 2, 'of servers too';
is scalar(grep { $_->{upstream} eq 'route:pay' } @events), 2, 'and of routes';
unlike $gateway->log, qr/\[(emerg|crit)\]|\[alert\](?!.*signal 9)/, 'nothing untoward in the log' or diag $gateway->log;
done_testing();
