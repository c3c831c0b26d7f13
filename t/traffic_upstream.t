# What is counted of upstream servers equals what they were sent and what they answered, whatever the group is made of.
use strict;
use warnings;
use lib 't/lib';
use IO::Socket::INET;
use JSON::PP qw(decode_json);
use Sluice::Run;
use Test::More;
use Time::HiRes ();

my $dead = free_port();
my $mute = IO::Socket::INET->new(LocalAddr => '127.0.0.1', Listen => 64) or die;
my $hung = '127.0.0.1:' . $mute->sockport;

# server_of($text): a backend that notes how many bytes it got and sent for each request.
sub server_of {
    my ($text) = @_;
    my $port = free_port();
    my $self = gateway(load => '', http => "root html; client_max_body_size 10m; log_format sizes '\$request_length \$bytes_sent \$status'; server { listen 127.0.0.1:$port; access_log logs/access.log sizes; $text }");
    $self->{port} = $port;
    return $self;
}

# noted($backend): [requests, bytes it got, bytes it sent].
sub noted {
    my ($backend) = @_;
    open my $file, '<', "$backend->{dir}/logs/access.log" or return [ 0, 0, 0 ];
    my @sum = (0, 0, 0);
    while (<$file>) {
        my ($in, $out) = split ' ';
        $sum[0]++;
        $sum[1] += $in;
        $sum[2] += $out;
    }
    return \@sum;
}

my $common = 'location /big { try_files /big =404; } location / { return 200 answer; } location /s503 { return 503; } location /s404 { return 404; } location /odd { return 599; }';
my $one    = server_of("$common location /away { add_header X-Accel-Redirect /two/landed; return 200; }");
my $two    = server_of($common);
Sluice::Run::spew("$one->{dir}/html/big", 'x' x 300_000);
my ($a, $b) = map {"127.0.0.1:$_->{port}"} $one, $two;

my ($port, $api) = (free_port(), free_port());
my $log    = 'error_log logs/error.log notice;';
my $groups = <<CONF;
    upstream plain { zone plain 64k; server $a; }
    upstream bare { server $a; server $b; }
    upstream kept { zone kept 64k; server $a; keepalive 8; }
    upstream least { zone least 64k; least_conn; server $a weight=3; server $b backup; keepalive 2; }
    upstream hashed { zone hashed 64k; hash \$arg_k consistent; server $a; server $b; }
    upstream twins { zone twins 64k; server $a; server $a; }
    upstream two { zone two 64k; server $a; server $b; }
    upstream fails { zone fails 64k; server 127.0.0.1:$dead max_fails=2 fail_timeout=1s; server $b; }
    upstream hung { zone hung 64k; server $hung max_fails=0 max_conns=3; }
    upstream off { zone off 64k; server $a down; server $b; }
    upstream drained { zone drained 64k; server $a drain; server $b; sticky route \$arg_r; }
    upstream broken { zone broken 64k; server $a; server $b; circuit_breaker scope=peer failures=2 open=1m; circuit_breaker_failure http_599; }
    upstream sick { zone sick 64k; server 127.0.0.1:$dead; server $b; health_check interval=100ms; }
CONF
my $locations = join '', map {
    "location /$_/ { proxy_pass http://$_/; proxy_http_version 1.1; proxy_set_header Connection ''; proxy_next_upstream error timeout http_503; }\n"
} qw(plain bare kept least hashed twins fails off broken sick);
$locations .= "location /two/ { proxy_pass http://two/; }\n location /two/landed { internal; proxy_pass http://bare/; }\n"
    . "location /redirects/ { proxy_pass http://plain/; proxy_intercept_errors on; error_page 404 = \@other; }\n location \@other { proxy_pass http://hashed; }\n"
    . "location /away { proxy_pass http://plain; }\n location /hung/ { proxy_pass http://hung/; }\n location /drained/ { proxy_pass http://drained/; }\n";
my $http    = "$groups server { listen 127.0.0.1:$port; $locations } server { listen 127.0.0.1:$api; location /api { api write=on; allow all; } }";
my $gateway = gateway(main => $log, workers => 2, http => $http);

sub of { my $answer = get($api, "/api/9$_[0]"); return status_of($answer) == 200 ? decode_json(body_of($answer)) : {} }
sub group { of("/http/upstreams/$_[0]") }
sub peer { my $group = group($_[0]); return $group->{peers}[$_[1] // 0] || {} }

# becomes($code, $wanted, $what): counts come when a request has ended.
sub becomes {
    my ($code, $wanted, $what) = @_;
    my $is;
    ok wait_until(5, sub { $is = $code->(); defined $is && $is eq $wanted }), "$what: $wanted" or diag explain $is;
}
sub requests { my ($name) = @_; return join ' ', map { $_->{requests} } @{ group($name)->{peers} || [] } }
sub fetch { my ($path, $times) = @_; get($port, $path) for 1 .. ($times || 1) }

# All explicit groups are there, ours or not, with stable numbers.
is_deeply [ sort keys %{ of('/http/upstreams') } ], [qw(bare broken drained fails hashed hung kept least off plain sick twins two)], 'every explicit group';
is_deeply [ map { $_->{id} } @{ group('least')->{peers} } ], [ 0, 1 ], 'numbers from 0';
is peer('least', 1)->{backup} ? 1 : 0, 1, 'the backup is one';
is peer('least')->{weight}, 3, 'a weight';

# Byte by byte what the servers noted themselves.
fetch('/plain/', 5);
fetch('/plain/odd');
fetch('/plain/s404');
becomes(sub { requests('plain') }, 7, 'requests');
my $plain = peer('plain');
ok wait_until(5, sub { noted($one)->[0] == 7 }), 'which the server has noted';
my ($count, $in, $out) = @{ noted($one) };
is_deeply [ @$plain{qw(requests sent received)} ], [ $count, $in, $out ], 'requests, bytes sent and received, as the server has it';
is_deeply $plain->{responses}, { '1xx' => 0, '2xx' => 5, '3xx' => 0, '4xx' => 1, '5xx' => 1, codes => { 200 => 5, 404 => 1, 599 => 1 }, total => 7 }, 'by status';
is $plain->{response_time_hist}{count}, 7, 'each has its time';
ok exists $plain->{header_time} && exists $plain->{response_time}, 'averages';
like $plain->{selected}, qr/^20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/, 'when it was chosen last';
is_deeply [ @$plain{qw(fails unavail downtime active)} ], [ 0, 0, 0, 0 ], 'none of these are failures';
ok !exists $plain->{downstart}, 'never out of service';

# Large ones, both ways, over connections that are kept and not.
get($port, '/plain/big') for 1 .. 2;
get($port, '/kept/big') for 1 .. 3;
get($port, '/plain/big', method => 'POST', body => 'y' x 10_000);
becomes(sub { peer('plain')->{requests} + peer('kept')->{requests} }, 13, 'large ones');
ok wait_until(5, sub { noted($one)->[0] == 13 }), 'which the server has noted';
($count, $in, $out) = @{ noted($one) };
cmp_ok $out, '>', 1_500_000, 'large indeed';
is peer('plain')->{sent} + peer('kept')->{sent}, $in + 10_000, 'bytes sent, as the server has it, who does not count a body that it does not read';
is peer('plain')->{received} + peer('kept')->{received}, $out, 'bytes received, as the server has it';

# Without a zone, over both workers; two of one address; hash; backup.
fetch('/bare/', 12);
becomes(sub { my $g = group('bare'); $g->{peers}[0]{requests} + $g->{peers}[1]{requests} }, 12, 'without a zone: of all workers');
fetch('/twins/', 6);
becomes(sub { requests('twins') }, '3 3', 'two servers of one address are two');
fetch("/hashed/?k=1", 4);
becomes(sub { join ' ', sort split ' ', requests('hashed') }, '0 4', 'hashed: one of them');
fetch('/least/', 3);
becomes(sub { requests('least') }, '3 0', 'the backup gets nothing');
fetch('/off/', 3);
becomes(sub { requests('off') }, '0 3', 'nor does one that is down');
is peer('off')->{state}, 'down', 'down';
is_deeply peer('off')->{because}, ['takes no traffic: it is down'], 'and why';

fetch('/drained/', 3);
becomes(sub { requests('drained') }, '0 3', 'nor one that drains');
is peer('drained')->{state}, 'draining', 'draining';
is_deeply peer('drained')->{because}, ['takes bound sessions only: it drains'], 'and why';

# Connections that are kept: one server, one connection and worker at most.
fetch('/kept/', 6);
becomes(sub { requests('kept') }, 9, 'over connections that are kept');
ok wait_until(5, sub { (group('kept')->{keepalive} || 0) >= 1 }), 'which are seen' or diag explain group('kept');
cmp_ok group('kept')->{keepalive}, '<=', 2, 'one for each worker at most';
is group('plain')->{keepalive}, 0, 'a group without keepalive keeps none';

# Redirects from one upstream to another: each its own.
my ($bare, $before) = (group('bare')->{peers}, peer('plain')->{requests});
fetch('/away');
becomes(sub { peer('plain')->{requests} }, $before + 1, 'X-Accel-Redirect: where it came from');
becomes(sub { my $g = group('bare'); $g->{peers}[0]{requests} + $g->{peers}[1]{requests} }, 13, 'X-Accel-Redirect: where it went');
fetch('/redirects/s404');
becomes(sub { peer('plain')->{responses}{codes}{404} }, 2, 'error_page: where it came from');
becomes(sub { my $g = group('hashed'); $g->{peers}[0]{requests} + $g->{peers}[1]{requests} }, 5, 'error_page: where it went');

# An answer that sends the request on to the next server.
fetch('/twins/s503');
becomes(sub { join ' ', map { $_->{responses}{codes}{503} // 0 } @{ group('twins')->{peers} } }, '1 1', 'tried at both');
is join(' ', sort map { $_->{fails} } @{ group('twins')->{peers} }), '0 1', 'the last one is what the client gets, and to the core no failure';

# Failures, and unavailable after them.
fetch('/fails/', 8);
becomes(sub { peer('fails')->{fails} }, 2, 'failed twice');
my $fails = peer('fails');
is_deeply [ @$fails{qw(requests unavail state)}, $fails->{responses}{total} ], [ 2, 1, 'unavail', 0 ], 'then unavailable, without an answer';
like $fails->{because}[0], qr/^takes no traffic: 2 failed attempts, tried again in [01]\.\d s$/, 'and why';
ok $fails->{downstart}, 'since when';
Time::HiRes::sleep(0.2);
cmp_ok peer('fails')->{downtime}, '>=', 200, 'and for how long';
ok wait_until(5, sub { peer('fails')->{state} eq 'up' }), 'is to be tried again';
my $downtime = peer('fails')->{downtime};
cmp_ok $downtime, '>=', 1000, 'it was out for its fail_timeout';
cmp_ok $downtime, '<=', 4000, 'and not much longer';
is_deeply [ peer('fails', 1)->{fails}, peer('fails', 1)->{requests} ], [ 0, 8 ], 'the other one served';

# Requests under way, a client that leaves, a worker that dies.
my @held = map {
    my $socket = IO::Socket::INET->new(PeerAddr => "127.0.0.1:$port", Timeout => 5) or die;
    print {$socket} "GET /hung/ HTTP/1.1\r\nHost: x\r\n\r\n";
    $socket;
} 1 .. 3;
becomes(sub { peer('hung')->{active} }, 3, 'under way');
like join(' ', @{ peer('hung')->{because} || [] }), qr/serves 3 requests, as many as it may/, 'as many as it may';
close $_ for @held;
becomes(sub { peer('hung')->{active} }, 0, 'clients have left');
is_deeply [ @{ peer('hung') }{qw(requests fails)}, peer('hung')->{responses}{total} ], [ 3, 0, 0 ], 'which is no failure and no answer';

# A server that is still away when it is tried again has become unavailable once more.
is peer('fails')->{unavail}, 1, 'once so far';
ok wait_until(8, sub { fetch('/fails/'); peer('fails')->{unavail} >= 3 }), 'and again each time' or diag explain peer('fails');
my $unavail = peer('fails')->{unavail};

# Health checks and breakers.
ok wait_until(5, sub { peer('sick')->{state} eq 'unhealthy' }), 'unhealthy';
ok wait_until(5, sub { peer('sick')->{downtime} > 0 }), 'is out of service';
like peer('sick')->{because}[0], qr/^takes no traffic: its health check has failed for \d+\.\d s: \S/, 'and why' or diag explain peer('sick')->{because};
cmp_ok peer('sick')->{health_checks}{fails}, '>=', 1, 'checks that failed';
is peer('sick', 1)->{state}, 'up', 'the other is up';
fetch('/broken/odd', 4);
ok wait_until(5, sub { grep { ($_->{circuit_breaker} // '') eq 'open' } @{ group('broken')->{peers} } }), 'a breaker is open' or diag explain group('broken');
my ($open) = grep { $_->{circuit_breaker} eq 'open' } @{ group('broken')->{peers} };
like $open->{because}[0], qr/^takes no traffic: \d+ failures? in \d+\.\d+ s, last http_599, tests again in \d+\.\d s$/, 'and why';

# Over a reload and another order of servers, nothing is lost and nobody's number changes.
my %was = map { my $name = $_; ($name => { map { ($_->{server} => [ $_->{id}, $_->{requests} ]) } @{ group($name)->{peers} } }) } qw(two bare least);
(my $moved = $http) =~ s/upstream bare \{ server \Q$a\E; server \Q$b\E; \}/upstream bare { server $b; server 127.0.0.1:$dead down; server $a; }/ or die;
ok $gateway->reload(main => $log, workers => 2, http => $moved), 'reload';
for my $name (qw(two bare least)) {
    my %is = map { ($_->{server} => [ $_->{id}, $_->{requests} ]) } @{ group($name)->{peers} };
    is_deeply { map { $_ => $is{$_} } keys %{ $was{$name} } }, $was{$name}, "$name: as it was";
}
is_deeply [ map { $_->{id} } @{ group('bare')->{peers} } ], [ 1, 2, 0 ], 'a new server has a new number';
is peer('fails')->{unavail}, $unavail, 'counts stay';

# A killed worker takes nothing along.
my $sum = peer('plain')->{requests};
my $stuck = IO::Socket::INET->new(PeerAddr => "127.0.0.1:$port", Timeout => 5) or die;
print {$stuck} "GET /hung/ HTTP/1.1\r\nHost: x\r\n\r\n";
becomes(sub { peer('hung')->{active} }, 1, 'one is under way');
my @workers = $gateway->workers;
kill 'KILL', @workers;
becomes(sub { my @now = $gateway->workers; join ' ', scalar @now, grep { my $is = $_; grep { $_ == $is } @workers } @now }, 2, 'replaced');
becomes(sub { peer('hung')->{active} }, 0, 'and nothing is under way any more');
becomes(sub { peer('plain')->{requests} }, $sum, 'counts stay');
fetch('/plain/');
becomes(sub { peer('plain')->{requests} }, $sum + 1, 'and go on');

# Back to 0.
is status_of(get($api, '/api/9/http/upstreams/plain', method => 'DELETE')), 204, 'reset';
is_deeply [ @{ peer('plain') }{qw(requests sent received id)}, peer('plain')->{responses}{total} ], [ 0, 0, 0, 0, 0 ], 'from 0 again';

# A worker that was stopped finds, before anything else, a request that came meanwhile: nobody has probed for too long.
{
    my ($own, $up) = map { free_port() } 1 .. 2;
    my $backend = backend(port => $up);
    my $late = gateway(workers => 1, http => "upstream u { server 127.0.0.1:$up; health_check interval=200ms timeout=100ms jitter=0; } server { listen 127.0.0.1:$own; location /api { api; } location / { proxy_pass http://u; } }");
    my $its = sub { (decode_json(body_of(get($own, '/api/9/http/upstreams/u')))->{peers} || [])->[0] };
    ok wait_until(5, sub { $its->()->{health_checks}{checks} >= 2 }), 'it is checked';
    my $socket = IO::Socket::INET->new(PeerAddr => "127.0.0.1:$own", Timeout => 10);
    my $ask = sub { print {$socket} "GET /api/9/http/upstreams/u HTTP/1.1\r\nHost: a\r\n\r\n" };
    my $told = sub {
        my $text = '';
        1 while !($text =~ /^Content-Length: (\d+)\r.*?\r\n\r\n(.*)/ms && length $2 >= $1) && sysread $socket, $text, 65536, length $text;
        return decode_json(body_of($text))->{peers}[0];
    };
    $ask->();
    ok !$told->()->{overdue}, 'in time';
    my ($worker) = $late->workers;
    kill 'STOP', $worker;
    $ask->();
    Time::HiRes::sleep(0.8);
    kill 'CONT', $worker;
    ok $told->()->{overdue}, 'too late';
    ok wait_until(5, sub { !$its->()->{overdue} }), 'and in time again';
}

ok $gateway->quit, 'quit';
unlike $gateway->log, qr/\[(?:emerg|alert|crit)\](?!.*exited on signal 9)/, 'nothing bad in the log';

done_testing;
