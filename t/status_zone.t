# status_zone: what is counted equals what was sent, whatever way a request takes and whatever happens to its worker.
use strict;
use warnings;
use lib 't/lib';
use File::Temp ();
use IO::Socket::INET;
use JSON::PP qw(decode_json);
use Sluice::Load;
use Sluice::Run;
use Test::More;
use Time::HiRes ();

my $port = free_port();
my $api  = free_port();
my $slow = IO::Socket::INET->new(LocalAddr => '127.0.0.1', Listen => 64) or die;    # takes connections, never answers
my $mute = $slow->sockport;
my $back = backend(server => 'location / { return 200 backend; } location /away { add_header X-Accel-Redirect /landed; return 200; }');
my $h2   = `$ENV{TEST_NGINX_BINARY} -V 2>&1` =~ /http_v2/;

my $server = <<CONF;
    status_zone one;
    location / { status_zone all; return 200 ok; location /all/off { status_zone off; return 200 off; } location /all/in { return 200 in; } }
    location /closed { status_zone closed; return 444; }
    location /missing { status_zone missing; error_page 404 = /landed; return 404; }
    location /named { status_zone named; error_page 404 = \@named; return 404; }
    location \@named { status_zone at; return 201; }
    location /landed { status_zone landed; return 203 landed; }
    location /away { status_zone away; proxy_pass http://127.0.0.1:$back->{port}; }
    location /if { status_zone plain; if (\$arg_a) { status_zone asked; return 204; } return 204; }
    location /rewritten { rewrite ^ /landed last; }
    location /part { internal; status_zone parts; log_subrequest on; return 200 part; }
    location /whole { status_zone whole; auth_request /part; mirror /part; try_files /none =418; }
    location /slow { status_zone slow; proxy_pass http://127.0.0.1:$mute; proxy_ignore_client_abort off; }
    location /odd/599 { status_zone odd; return 599; }
    location /odd/299 { status_zone odd; return 299; }
    location /odd/418 { status_zone odd; return 418; }
    location /upload { status_zone upload; proxy_pass http://127.0.0.1:$back->{port}; }
CONF
my $log  = 'error_log logs/error.log notice;';
my $http = "server { listen 127.0.0.1:$port; $server } server { listen 127.0.0.1:$port; server_name other; status_zone other; return 200; }\n"
    . "server { listen 127.0.0.1:$port; server_name same; status_zone one; return 200; }\n"
    . "server { listen 127.0.0.1:$api; location /api { api write=on; allow all; } }\n";
my $gateway = gateway(main => $log, workers => 2, http => $http);

sub of { my $answer = get($api, "/api/9$_[0]"); return status_of($answer) == 200 ? decode_json(body_of($answer)) : {} }
sub server_zone   { of("/http/server_zones/$_[0]") }
sub location_zone { of("/http/location_zones/$_[0]") }

# settled($zone, $requests, $what): the log phase comes after the client has its answer.
sub settled {
    my ($zone, $requests, $what) = @_;
    my $is;
    ok wait_until(5, sub { (($is = $zone->())->{requests} // -1) == $requests }), "$what: $requests" or diag explain $is;
    return $is;
}

# What a client sends and gets, byte by byte: three requests over one connection.
{
    my $socket = IO::Socket::INET->new(PeerAddr => "127.0.0.1:$port", Timeout => 5) or die;
    my ($sent, $got) = ('', '');
    for my $path (qw(/ /all/in /nowhere)) {
        my $close   = $path eq '/nowhere' ? 'close' : 'keep-alive';
        my $request = "GET $path HTTP/1.1\r\nHost: x\r\nConnection: $close\r\n\r\n";
        print {$socket} $request;
        $sent .= $request;
        my $answer = '';
        sysread $socket, $answer, 65536, length $answer until $answer =~ /\r\n\r\n(?:ok|in)$/;
        $got .= $answer;
    }
    my $one = settled(sub { server_zone('one') }, 3, 'requests over one connection');
    is $one->{received}, length $sent, 'as many bytes as the client sent';
    is $one->{sent},     length $got,  'as many bytes as it got';
    is_deeply $one->{responses}, { '1xx' => 0, '2xx' => 3, '3xx' => 0, '4xx' => 0, '5xx' => 0, codes => { 200 => 3 }, total => 3 }, 'by status';
    my $all = location_zone('all');
    is $all->{requests}, 3, 'a location inherits the zone around it';
    is $all->{$_}, $one->{$_}, "a location's $_" for qw(received sent);
}

# Each way of a request once: server, location where it ended, and its status there.
my $count = 3;
my %ended;
for my $way (
    [ '/all/off',      200, undef ],
    [ '/missing',      203, 'landed' ],
    [ '/named',        201, 'at' ],
    [ '/away',         203, 'landed' ],
    [ '/rewritten',    203, 'landed' ],
    [ '/if',           204, 'plain' ],
    [ '/if?a=1',       204, 'asked' ],
    [ '/whole',        418, 'whole' ],
    [ '/odd/599', 599, 'odd' ],
    [ '/odd/299', 299, 'odd' ],
    [ '/odd/418', 418, 'odd' ],
) {
    my ($path, $status, $zone) = @$way;
    is status_of(get($port, $path)), $status, $path;
    settled(sub { server_zone('one') }, ++$count, $path);
    $ended{$zone}{$status}++ if $zone;
}
for my $zone (sort keys %ended) {
    my ($is, $requests) = (location_zone($zone), 0);
    $requests += $_ for values %{ $ended{$zone} };
    is $is->{requests}, $requests, "$zone: requests";
    is_deeply $is->{responses}{codes}, $ended{$zone}, "$zone: codes";
    ok !exists $is->{processing}, "$zone: a location is without processing";
}
is location_zone($_)->{requests}, 0, "$_: nothing ended there" for qw(missing named away parts);

# Answers that are none.
is get($port, '/closed'), '', 'closed without an answer';
my $closed = settled(sub { location_zone('closed') }, 1, 'closed');
is_deeply [ @$closed{qw(discarded sent)}, $closed->{responses}{total} ], [ 1, 0, 0 ], 'discarded';
{
    my $socket = IO::Socket::INET->new(PeerAddr => "127.0.0.1:$port", Timeout => 5) or die;
    print {$socket} "GET /slow HTTP/1.1\r\nHost: x\r\n\r\n";
    ok wait_until(5, sub { server_zone('one')->{processing} == 1 }), 'a request under way';
    is of('/http/requests')->{current}, 2, 'and this one of the API';
    close $socket;
    my $left = settled(sub { location_zone('slow') }, 1, 'a client that left');
    is_deeply [ @$left{qw(discarded sent)}, $left->{responses}{total} ], [ 1, 0, 0 ], 'discarded';
    is server_zone('one')->{processing}, 0, 'no longer under way';
}
$count += 2;

# Before the server is known: the address's first one.
is status_of(get($port, '/%')), 400, 'not a request';
is status_of(get($port, '/', Host => "a\0b")), 400, 'not a host';
is status_of(get($port, '/', 'Content-Length' => 'x')), 400, 'not a length';
$count += 3;
my $one = settled(sub { server_zone('one') }, $count, 'errors count for the default server');
is $one->{responses}{codes}{400}, 3, 'as what they are';
is $one->{processing}, 0, 'and leave nothing under way';
is $one->{discarded}, 2, 'discarded: two by now';
is $one->{responses}{total} + $one->{discarded}, $one->{requests}, 'each is one or the other';
is server_zone('other')->{requests}, 0, 'not for another';
is status_of(get($port, '/', Host => 'other')), 200, 'another';
settled(sub { server_zone('other') }, 1, 'another');
is status_of(get($port, '/', Host => 'same')), 200, 'one that shares a zone';
settled(sub { server_zone('one') }, ++$count, 'servers that share a zone');

# A body counts; what a backend is asked does not.
my $body = 'x' x 100_000;
is status_of(get($port, '/upload', method => 'POST', body => $body)), 200, 'upload';
my $upload = settled(sub { location_zone('upload') }, 1, 'upload');
cmp_ok $upload->{received}, '>', length $body, 'the body is received';
cmp_ok $upload->{received}, '<', 400 + length $body, 'once';
$count++;

# All together.
my $http_requests = of('/http/requests')->{total};
cmp_ok $http_requests, '>=', $count, 'all requests are among all requests';

# A worker is killed in the middle of requests: what was counted stays, what was under way is no more.
{
    my @held = map {
        my $socket = IO::Socket::INET->new(PeerAddr => "127.0.0.1:$port", Timeout => 5) or die;
        print {$socket} "GET /slow HTTP/1.1\r\nHost: x\r\n\r\n";
        $socket;
    } 1 .. 12;
    ok wait_until(5, sub { (server_zone('one')->{processing} // 0) == 12 }), 'twelve under way';
    my @workers = $gateway->workers;
    kill 'KILL', $workers[0];
    ok wait_until(5, sub { my @now = $gateway->workers; @now == 2 && $now[0] != $workers[0] && $now[1] != $workers[0] }), 'killed, and replaced';
    kill 'KILL', $workers[1];
    ok wait_until(5, sub { (server_zone('one')->{processing} // -1) == 0 }), 'nothing is under way';
    ok wait_until(5, sub { (of('/processes')->{respawned} // 0) == 2 }), 'respawned: 2';
    is server_zone('one')->{requests}, $count, 'no request is lost, none made up';
    ok wait_until(5, sub { (of('/http/requests')->{current} // 0) == 1 }), 'only the one that asks';
    ok wait_until(5, sub { (of('/connections')->{active} // 0) == 1 }), 'and its connection' or diag explain of('/connections');
}

# Reloads: the same, moved about, and a zone of another size.
ok $gateway->reload, 'reload';
is server_zone('one')->{requests}, $count, 'still known';
is of('/processes')->{respawned}, 2, 'a reload respawns nothing';
{
    # A request of the old workers is still under way, and counts when it ends.
    my $socket = IO::Socket::INET->new(PeerAddr => "127.0.0.1:$port", Timeout => 5) or die;
    print {$socket} "GET /slow HTTP/1.1\r\nHost: x\r\n\r\n";
    ok wait_until(5, sub { server_zone('one')->{processing} == 1 }), 'one under way';
    my %old = map { $_ => 1 } $gateway->workers;
    $gateway->signal('HUP');
    ok wait_until(5, sub { grep { !$old{$_} } $gateway->workers }), 'new workers beside old ones';
    ok wait_until(5, sub { server_zone('one')->{processing} == 1 }), 'still under way';
    close $socket;
    settled(sub { server_zone('one') }, ++$count, 'and ended');
    is server_zone('one')->{processing}, 0, 'not under way any more';
    ok wait_until(5, sub { !grep { $old{$_} } $gateway->workers }), 'old workers are gone';
}
# Requests of many clients while workers come and go: each is counted once.
for my $round (1 .. 4) {
    my %old = map { $_ => 1 } $gateway->workers;
    $gateway->signal('HUP');
    my @answers = burst(60, [$port], '/', at_once => 12);
    is scalar(grep { $_->{status} == 200 } @answers), 60, "reload $round: all answered";
    $count += 60;
    ok wait_until(5, sub { !grep { $old{$_} } $gateway->workers }), 'old workers are gone';
}
settled(sub { server_zone('one') }, $count, 'after four reloads under load');
my $more = join '', map {"location /more$_ { status_zone more$_; return 200; }"} 1 .. 200;
ok $gateway->reload(main => $log, workers => 3, http => "server { listen 127.0.0.1:$api; location /api { api write=on; allow all; } } server { listen 127.0.0.1:$port; $more $server }"), 'a much larger configuration';
is server_zone('one')->{requests}, $count, 'still known in a zone of another size';
is_deeply location_zone('odd')->{responses}{codes}, $ended{odd}, 'codes of no registry, too';
is status_of(get($port, '/more77')), 200, '/more77';
settled(sub { location_zone('more77') }, 1, 'a new one');
ok !%{ server_zone('other') }, 'one that is no longer there';

# Back to nothing, for everybody, and on from there.
is status_of(get($api, '/api/9/http/server_zones/one', method => 'DELETE')), 204, 'reset';
is server_zone('one')->{requests}, 0, 'counts again from 0';
is status_of(get($port, '/')), 200, 'a request';
is_deeply settled(sub { server_zone('one') }, 1, 'after a reset')->{responses}{codes}, { 200 => 1 }, 'only what came after it';
ok $gateway->quit, 'quit';
unlike $gateway->log, qr/\[(?:emerg|alert|crit)\](?!.*exited on signal 9)/, 'nothing bad in the log';

# TLS and HTTP/2.
SKIP: {
    skip 'nginx without HTTP/2', 1 unless $h2;
    my ($tls, $prior) = (free_port(), free_port());
    my $certificate = certificate();
    my $pair        = "ssl_certificate $certificate->{cert}; ssl_certificate_key $certificate->{key}; ssl_session_cache shared:s:1m; ssl_session_tickets off;";
    my $listen      = version() >= 1.025001 ? "listen 127.0.0.1:$tls ssl; http2 on;" : "listen 127.0.0.1:$tls ssl http2;";
    my $gateway     = gateway(main => $log, workers => 2,
        http => "server { $listen $pair status_zone tls; location / { status_zone in; return 200 ok; } location /closed { return 444; } } server { listen 127.0.0.1:$api; location /api { api; } }");
    my $curl = "curl -sk --max-time 10 -o /dev/null -w '%{http_version} %{size_header} %{size_download}\\n'";
    my @said = `$curl --http2 'https://127.0.0.1:$tls/[1-20]'`;
    is scalar(grep {/^2 /} @said), 20, 'twenty requests of HTTP/2';
    my $zone = settled(sub { server_zone('tls') }, 20, 'HTTP/2: each stream is a request');
    is_deeply $zone->{responses}{codes}, { 200 => 20 }, 'HTTP/2: by status';
    is $zone->{ssl}{handshakes}, 1, 'over one connection: one handshake';
    is $zone->{processing}, 0, 'HTTP/2: nothing under way';
    cmp_ok $zone->{sent},     '>', 20 * 2,  'HTTP/2: bytes sent';
    cmp_ok $zone->{received}, '>', 20 * 10, 'HTTP/2: bytes received';
    is location_zone('in')->{requests}, 20, 'HTTP/2: its location';
    system "$curl --http1.1 'https://127.0.0.1:$tls/' >/dev/null" for 1 .. 3;
    is settled(sub { server_zone('tls') }, 23, 'HTTP/1.1 over TLS')->{ssl}{handshakes}, 4, 'each its handshake';
    `echo | timeout 5 openssl s_client -connect 127.0.0.1:$tls -tls1_2 -sess_out $certificate->{dir}/s </dev/null 2>&1`;
    `(printf 'GET / HTTP/1.0\r\n\r\n'; sleep 0.3) | timeout 5 openssl s_client -quiet -connect 127.0.0.1:$tls -tls1_2 -sess_in $certificate->{dir}/s 2>&1`;
    is settled(sub { server_zone('tls') }, 24, 'a session taken up again')->{ssl}{session_reuses}, 1, 'reused';
    ok wait_until(5, sub { (of('/ssl')->{handshakes} // 0) == 6 && of('/ssl')->{session_reuses} == 1 }), 'of all servers, those without a request too' or diag explain of('/ssl');
    my $plain = IO::Socket::INET->new(PeerAddr => "127.0.0.1:$tls", Timeout => 5) or die;
    print {$plain} "\x16\x03\x01\x00\x05garbage-that-is-no-handshake";
    sysread $plain, my $nothing, 100;
    close $plain;
    ok wait_until(5, sub { (of('/ssl')->{handshakes_failed} // 0) == 1 }), 'one that failed' or diag explain of('/ssl');
    my $open = IO::Socket::INET->new(PeerAddr => "127.0.0.1:$tls", Timeout => 5) or die;
    Time::HiRes::sleep(1.2);
    is of('/ssl')->{handshakes_failed}, 1, 'one that is under way has not failed';
    close $open;
    ok $gateway->quit, 'quit';
    unlike $gateway->log, qr/\[(?:emerg|alert|crit)\]/, 'nothing bad in the log';
}

sub certificate {
    my $dir = File::Temp::tempdir(CLEANUP => 1);
    system "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -keyout $dir/key -out $dir/cert >/dev/null 2>&1";
    return { dir => $dir, key => "$dir/key", cert => "$dir/cert" };
}

sub version {
    my ($major, $minor, $patch) = `$ENV{TEST_NGINX_BINARY} -v 2>&1` =~ m{nginx/(\d+)\.(\d+)\.(\d+)};
    return $major + $minor / 1000 + $patch / 1_000_000;
}

# Mistakes: nginx -t names what is wrong, and where.
for my $row (
    [ 'status_zone;',                    'invalid number of arguments in "status_zone" directive' ],
    [ 'status_zone a b;',                'invalid number of arguments in "status_zone" directive' ],
    [ 'status_zone "";',                 '"status_zone" directive has invalid value "" of "status_zone", a name or "off" expected' ],
    [ 'status_zone a; status_zone b;',   '"status_zone" directive is duplicate' ],
    [ 'status_zone a; status_zone off;', '"status_zone" directive is duplicate' ],
) {
    my ($text, $message) = @$row;
    for my $at ('server {', 'server { location / {') {
        my $end = $at =~ /location/ ? '}}' : '}';
        my ($status, $said) = nginx_t(http => "\n$at\n\n$text\n$end");
        ok $status != 0 && $said =~ /\[emerg\].*\Q$message\E.* in \S+nginx\.conf:12$/m, "$at $text" or diag "$status: $said";
    }
}
my ($status, $said) = nginx_t(http => "\nstatus_zone a;\n");
ok $status != 0 && $said =~ /"status_zone" directive is not allowed here/, 'not in http' or diag $said;

# A status beyond those of HTTP is one that was sent, too.
{
    my $own = free_port();
    my $odd = gateway(http => "server { listen 127.0.0.1:$own; status_zone z; location / { return 999 odd; } location /api { api; } location /metrics { metrics; } }");
    get($own, '/') for 1 .. 3;
    my $its = sub { JSON::PP::decode_json(body_of(get($own, '/api/9/http/server_zones/z'))) };
    ok wait_until(5, sub { ($its->()->{responses}{codes}{999} // 0) == 3 }), 'a status of no class' or diag explain $its->();
    my $responses = $its->()->{responses};
    is $responses->{total}, 3 + $responses->{'2xx'}, 'is among all';
    like body_of(get($own, '/metrics')), qr/^nginx_http_requests_total\{status="999"\} 3$/m, 'and in the metrics';
    $odd->quit;
}

done_testing;
