# slow_start: a server that is back gets its share linearly, by every method that takes it, through a reload, after max_fails too.
use strict;
use warnings;
use lib 't/lib';
use Sluice::Backends;
use Sluice::Run;
use Test::More;
use Time::HiRes qw(time sleep);

my $log  = 'error_log logs/error.log notice;';
my $time = 3;
my $b    = backends(3);
my @at   = map { '127.0.0.1:' . $b->port($_) } 1 .. 3;

# Each group's expected full share of the third server.
my %groups = (
    rr       => [ 'zone rr 64k;',                '',         1 / 3 ],
    heap     => [ '',                            '',         1 / 3 ],
    least    => [ 'zone least 64k; least_conn;', '',         1 / 3 ],
    random   => [ 'zone random 64k; random;',    '',         1 / 3 ],
    two      => [ 'random two;',                 '',         1 / 3 ],
    weighted => [ 'zone weighted 64k;',          'weight=2', 1 / 2 ],
    kept     => [ 'keepalive 4; zone kept 64k;', '',         1 / 3 ],
);
my @names = sort keys %groups;

sub http {
    my ($port, $more) = (shift, shift // '');
    my $upstreams = join '', map {
        my ($method, $weight) = @{ $groups{$_} };
        "upstream $_ { $method server $at[0]; server $at[1]; server $at[2] $weight slow_start=${time}s; health_check interval=50ms uri=/health?$_ match=ok; }\n"
    } @names;
    my $locations = join '', map {"location /$_ { proxy_pass http://$_; }\n"} @names;
    return "match ok { status 200; json \$.checks.database.status = ok; } keepalive_requests 1000000; $upstreams server { listen 127.0.0.1:$port; $locations } $more";
}

# requests($port, $seconds, \@paths): [time, path, backend] of one request after another over four kept connections.
sub requests {
    my ($port, $seconds, $paths) = @_;
    my ($until, @seen, @sockets) = (time + $seconds);
    for (my $n = 0; time < $until; $n++) {
        my $path = $paths->[ $n % @$paths ];
        my $slot = int($n / @$paths) % 4;
        for my $again (0, 1) {
            my $socket = $sockets[$slot] ||= IO::Socket::INET->new(PeerAddr => "127.0.0.1:$port", Timeout => 5) or next;
            local $SIG{PIPE} = 'IGNORE';
            syswrite $socket, "GET /$path HTTP/1.1\r\nHost: t\r\n\r\n";
            my $answer = '';
            1 while $answer !~ /\r\n\r\n\d/ && sysread $socket, $answer, 4096, length $answer;
            if ($answer =~ m{^HTTP/1.1 (\d+).*\r\n\r\n(\d*)}s) { push @seen, [ time, $path, $1 == 200 ? $2 : $1 ]; last }
            undef $sockets[$slot];    # closed by a worker that leaves
        }
    }
    return \@seen;
}

# share($seen, $path, $from, $to, $n): of backend $n between two points in time, and how many requests that were.
sub share {
    my ($seen, $path, $from, $to, $n) = @_;
    my @in = grep { $_->[1] eq $path && $_->[0] >= $from && $_->[0] < $to } @$seen;
    return (scalar(grep { $_->[2] eq $n } @in) / (@in || 1), scalar @in);
}

# linear($seen, $group, $began, $from, $to): what part of its share the third server got between $from and $to, and what is
# wrong with that if it came back at $began.
sub linear {
    my ($seen, $group, $began, $from, $to) = @_;
    my $full = $groups{$group}[2];
    my @in   = grep { $_->[1] eq $group && $_->[0] >= $from && $_->[0] < $to } @$seen;
    my ($got, $wanted) = (scalar(grep { $_->[2] eq '3' } @in), 0);
    $wanted += $full * ($_->[0] < $began + $time ? ($_->[0] - $began) / $time : 1) for @in;
    # A twentieth of its share, and requests are whole. Chance is off by more among some hundred.
    my $bound = 0.05 * $full * @in + 1.5;
    $bound += 3 * sqrt(@in * $full * (1 - $full)) if $group eq 'random' || $group eq 'two';
    my $wrong = abs($got - $wanted) > $bound ? sprintf '%d of %d requests, %.1f +- %.1f wanted', $got, scalar @in, $wanted, $bound : '';
    return (sprintf('%.3f', $got / (@in || 1) / $full), $wrong);
}

# When the group's check first passed after $since.
sub back {
    my ($group, $since) = @_;
    my ($line) = grep { /\?\Q$group\E / && (split)[0] > $since } $b->probes(3);
    return $line ? (split ' ', $line)[0] : undef;
}

sub out { my ($gateway, $count) = @_; wait_until(5, sub { ($count) == (() = $gateway->log =~ /server \Q$at[2]\E is unhealthy/g) }) }

# Every method at once: ten points of each ramp.
{
    my $port    = free_port();
    my $gateway = gateway(main => $log, workers => 2, http => http($port));
    is share(requests($port, 0.3, ['rr']), 'rr', 0, 1e12, 3) > 0.2, 1, 'no slow start at the start';
    $b->sick(3);
    ok out($gateway, scalar @names), 'the third is out of all groups';
    $b->well_again(3);
    my $since = time;
    my $seen  = requests($port, $time + 0.8, \@names);
    for my $group (@names) {
        my $began = back($group, $since) or fail "$group: never back", next;
        my (@shares, @wrong);
        for my $tenth (0 .. 10) {
            my ($share, $wrong) = linear($seen, $group, $began, map { $began + $_ * $time / 10 } $tenth, $tenth + 1);
            push @shares, $share;
            push @wrong, "tenth $tenth: $wrong" if $wrong;
        }
        is "@wrong", '', "$group: linear at ten points, and then whole: @shares";
    }
    unlike $gateway->log, qr/\[(?:emerg|alert|crit|error)\]/, 'nothing bad in the log';

    # A reload in the middle goes on where it was.
    $b->sick(3);
    ok out($gateway, 2 * @names), 'out again';
    $b->well_again(3);
    $since = time;
    wait_until(3, sub { back('rr', $since) });
    my $began = back('rr', $since);
    sleep $began + $time * 0.5 - time;
    ok $gateway->reload, 'reload in the middle';
    my @some = qw(rr heap least random kept);
    $seen = requests($port, 0.9, \@some);
    for my $group (@some) {
        my ($share, $wrong) = linear($seen, $group, back($group, $since), $seen->[0][0], $seen->[-1][0]);
        is $wrong, '', "$group: goes on, at $share of its share";
    }
    ok $gateway->quit, 'quit';
}

# All servers come back at once; backups; one server alone: nobody is turned away.
{
    my $port    = free_port();
    my $servers = join ' ', map {"server $_ slow_start=1m;"} @at;
    my $gateway = gateway(main => $log, workers => 2, http => <<"EOT");
        match ok { status 200; json \$.checks.database.status = ok; }
        upstream all { zone all 64k; $servers health_check interval=50ms uri=/health?all match=ok; }
        upstream one { server $at[0] slow_start=1m; health_check interval=50ms uri=/health?one match=ok; }
        upstream backup { zone backup 64k; server $at[0] down; server $at[1] backup slow_start=1m; server $at[2] backup; health_check interval=50ms uri=/health?backup match=ok; }
        keepalive_requests 1000000;
        server { listen 127.0.0.1:$port; location /all { proxy_pass http://all; } location /one { proxy_pass http://one; } location /backup { proxy_pass http://backup; } }
EOT
    $b->sick($_) for 1 .. 3;
    ok wait_until(5, sub { status_of(get($port, '/all')) == 502 && status_of(get($port, '/one')) == 502 && status_of(get($port, '/backup')) == 502 }), 'all out';
    $b->well_again($_) for 1 .. 3;
    ok wait_until(5, sub { 6 == (() = $gateway->log =~ /is healthy/g) }), 'all back';
    my $seen = requests($port, 0.5, [ 'all', 'one', 'backup' ]);
    is scalar(grep { $_->[2] > 3 } @$seen), 0, 'no error';
    for my $n (1 .. 3) {
        my ($got) = share($seen, 'all', 0, 1e12, $n);
        cmp_ok abs($got - 1 / 3), '<', 0.2, sprintf 'all warm up together: %.2f', $got;
    }
    is((share($seen, 'one', 0, 1e12, 1))[0], 1, 'a server alone gets all');
    cmp_ok((share($seen, 'backup', 0, 1e12, 2))[0], '<', 0.1, 'a backup warms up too');
    $gateway->quit;
}

# After max_fails, with and without a zone, without a health check.
for my $zone ('zone u 64k;', '') {
    my $port    = free_port();
    my $flaky   = backend(server => 'location / { return 200 9; }');
    my $gateway = gateway(http => "upstream u { $zone server $at[0]; server 127.0.0.1:$flaky->{port} fail_timeout=1s slow_start=4s; } keepalive_requests 1000000; server { listen 127.0.0.1:$port; location / { proxy_pass http://u; } }");
    ok wait_until(5, sub { body_of(get($port, '/')) eq '9' }), 'in';
    $flaky->quit('TERM');
    is status_of(get($port, '/')), 200, 'another serves' for 1 .. 3;
    my $again = backend(port => $flaky->{port}, server => 'location / { return 200 9; }');
    my $seen  = requests($port, 6.5, ['']);
    is scalar(grep { $_->[2] !~ /^[19]$/ } @$seen), 0, 'no error';
    my ($first) = grep { $_->[2] eq '9' } @$seen;
    ok $first, 'back' or next;
    my @shares = map { (share($seen, '', $first->[0] + $_, $first->[0] + $_ + 0.4, '9'))[0] } 0, 1, 2, 3;
    my $said   = join ' ', map { sprintf '%.2f', $_ } @shares;
    ok $shares[0] < $shares[1] && $shares[1] < $shares[2] && $shares[2] < $shares[3] && $shares[0] < 0.2 && $shares[3] < 0.5, "grows after max_fails: $said";
    cmp_ok abs((share($seen, '', $first->[0] + 4.2, 1e12, '9'))[0] - 0.5), '<', 0.03, 'and then has its share';
    $_->quit for $gateway, $again;
}

# Mistakes: nginx -t names what is wrong, and where.
for my $row (
    [ 'server 127.0.0.1:1 slow_start=abc;',                       'invalid value "abc" of "slow_start", a time such as' ],
    [ 'server 127.0.0.1:1 slow_start;',                           'invalid value "" of "slow_start"' ],
    [ 'server 127.0.0.1:1 slow_start=-1s;',                       'invalid value "-1s" of "slow_start"' ],
    [ 'server 127.0.0.1:1 slow_start=31d;',                       'invalid value "31d" of "slow_start", a time of at most 30d' ],
    [ 'server 127.0.0.1:1 slow_start=1s; ip_hash;',               'balancing method does not support parameter "slow_start=1s"' ],
    [ 'ip_hash; server 127.0.0.1:1 slow_start=1s;',               'balancing method does not support parameter "slow_start=1s"' ],
    [ 'hash $uri; server 127.0.0.1:1 slow_start=1s;',             'balancing method does not support parameter "slow_start=1s"' ],
    [ 'hash $uri consistent; server 127.0.0.1:1 slow_start=1s;',  'balancing method does not support parameter "slow_start=1s"' ],
    [ 'server 127.0.0.1:1 slow_start=1s no_such=1;',              'invalid parameter "no_such=1"' ],
    [ 'server 127.0.0.1:1 weight=0 slow_start=1s;',               'invalid parameter "weight=0"' ],
    [ 'server slow_start=1s;',                                    'slow_start=1s' ],
) {
    my ($text, $message) = @$row;
    my ($status, $said) = nginx_t(http => "\nupstream u {\n\n$text\n}");
    ok $status != 0 && $said =~ /\[emerg\].*\Q$message\E.* in \S+nginx\.conf:12$/m, $text or diag "$status: $said";
}
for my $text ('server 127.0.0.1:1 slow_start=30s weight=2 max_fails=3;', 'random; server 127.0.0.1:1 slow_start=1m;', 'least_conn; server 127.0.0.1:1 slow_start=0;',
    'hash $uri; server 127.0.0.1:1 slow_start=0;', 'server 127.0.0.1:1 slow_start=500ms backup; server 127.0.0.1:2;') {
    my ($status, $said) = nginx_t(http => "upstream u { $text }");
    is $status, 0, $text or diag $said;
}

done_testing;
