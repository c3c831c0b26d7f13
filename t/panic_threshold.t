# panic_threshold: when too few servers are usable; and degraded servers, which are the last choice.
use strict;
use warnings;
use lib 't/lib';
use IO::Socket::INET;
use Sluice::Backends;
use Sluice::Run;
use Test::More;

my $log   = 'error_log logs/error.log notice;';
my $b     = backends(4);
my @at    = map { '127.0.0.1:' . $b->port($_) } 1 .. 4;
my $match = 'match ok { json $.checks.database.status = ok; degraded { json $.status = degraded; } }';

# answers($port, $path, $count): how many came from each backend, and `502` and the like.
sub answers {
    my ($port, $path, $count) = @_;
    my %from;
    for (1 .. $count) {
        my $answer = get($port, $path);
        $from{ status_of($answer) == 200 ? body_of($answer) : status_of($answer) }++;
    }
    return \%from;
}

# who($port, $path): the backends that answer, in order: `12`, or `502`.
sub who { return join '', sort keys %{ answers(@_, 24) } }

sub becomes {
    my ($port, $path, $wanted, $what) = @_;
    my $is = '';
    ok wait_until(5, sub { ($is = who($port, $path)) eq $wanted }), "$path: $what" or diag "$is, not $wanted";
}

# group($name, $text, @servers): a checked group of its own zone, and its location.
my (@groups, @locations);
sub group {
    my ($name, $text, @servers) = @_;
    push @groups,    "upstream $name { $text @{[ map {\"server $_;\"} @servers ]} health_check interval=50ms uri=/health?$name match=ok; }\n";
    push @locations, "location /$name { proxy_pass http://$name; }\n";
}
my @three = @at[ 0 .. 2 ];
group('half',    'panic_threshold 50%;',                           @three);
group('zone',    'zone zone 64k; panic_threshold 50 mode=all;',    @three);
group('least',   'least_conn; keepalive 4; panic_threshold 50%;',  @three);
group('hash',    'hash $request_id; panic_threshold 50%;',         @three);
group('none',    'zone none 64k; panic_threshold 50% mode=none;',  @three);
group('never',   '',                                               @three);
group('last',    'panic_threshold 0% mode=all;',                   @three);
group('backup',  'panic_threshold 50%;',                           @three, "$at[3] backup");
group('refused', 'panic_threshold 50% mode=none;',                 @three, "$at[3] backup");
group('down',    'panic_threshold 60%;',                           @three, "$at[3] down");
group('spare',   'zone spare 64k;',                                @three);
group('spared',  'zone spared 64k; least_conn; keepalive 4;',      @at[ 0, 1 ], "$at[3] backup");
group('tried',   'sticky route $arg_r;',                           "$at[0] route=a", "$at[1] route=b");

my $port    = free_port();
my $gateway = gateway(main => $log, workers => 2, http => "$match @groups server { listen 127.0.0.1:$port; @locations }");

becomes $port, "/$_", 123, 'all usable' for qw(half zone none never backup down);

# Two of three are sick.
$b->sick(1);
becomes $port, "/$_", 23, 'two of three are enough' for qw(half zone least hash none never last backup refused down);
$b->sick(2);
becomes $port, "/$_", 123,   'one of three: panic, all get requests' for qw(half zone least hash backup down);
becomes $port, '/none',    502, 'one of three: panic, none gets any';
becomes $port, '/refused', 4,   'one of three: panic, only the backup gets any';
becomes $port, '/never',   3,   'no threshold, no panic';
becomes $port, '/last',    3,   'one is left, no panic';
like $gateway->log, qr/\[warn\].* upstream is in panic: 1 of 3 servers are usable, requests go to all of them, upstream "half"/, 'which is logged';
like $gateway->log, qr/upstream is in panic: 1 of 3 servers are usable, requests go to none, upstream "none"/,                     'in both modes';
is scalar(() = $gateway->log =~ /is in panic.*"zone"/g), 1, 'once';
ok $gateway->reload, 'reload in panic';
is who($port, "/$_"), 123, "/$_: still in panic" for qw(half zone);
is who($port, '/none'), 502, '/none: still in panic';

# Nobody is left.
$b->sick(3);
becomes $port, "/$_", 123, 'none usable: all get requests' for qw(half zone least hash last);
becomes $port, "/$_", 502, 'none usable: 502' for qw(never none);
becomes $port, "/$_", 4,   'none usable but a backup: it serves' for qw(backup refused);

$b->well_again($_) for 1 .. 3;
becomes $port, "/$_", 123, 'all usable again' for qw(half zone least hash none never last backup refused down);
like $gateway->log, qr/upstream is no longer in panic, upstream "half"/, 'which is logged';

# Degraded: the last choice, after healthy backups.
my $degraded = '{"status":"degraded","checks":{"database":{"status":"ok"}}}';
$b->say(1, $degraded);
becomes $port, "/$_", 23, 'a degraded server waits' for qw(spare never half);
becomes $port, '/spared', 2, 'a degraded server waits';
like $gateway->log, qr/upstream server \Q$at[0]\E is degraded: /, 'which is logged';
is who($port, '/tried?r=a'), 1, 'but its sessions stay';
ok $gateway->reload, 'reload';
is who($port, '/spare'), 23, '/spare: still waits';
$b->sick(2);
becomes $port, '/spare',  3, 'still a healthy one';
becomes $port, '/spared', 4, 'a healthy backup comes before a degraded primary server';
becomes $port, '/half',   3, 'degraded is usable: no panic at two of three';
$b->sick($_) for 3, 4;
becomes $port, '/spare',  1, 'no healthy one left: the degraded one serves';
becomes $port, '/spared', 1, 'nor a healthy backup';
$b->well_again($_) for 1 .. 4;
becomes $port, '/spare',  123, 'all are well';
becomes $port, '/spared', 12,  'all are well';

# A degraded server is there when the healthy ones fail under the requests: none of them sees an error.
{
    my $flaky  = backend(server => "location = /health { return 200 '{\"checks\":{\"database\":{\"status\":\"ok\"}}}'; } location / { return 444; }");
    my $at     = free_port();
    my $zones  = 0;
    my $groups = join '', map {
        my $name = 'u' . $zones++;
        "upstream $name { $_ server $at[0]; server 127.0.0.1:$flaky->{port} fail_timeout=1h; health_check interval=50ms uri=/health?$name match=ok; }"
            . "upstream b$name { $_ server 127.0.0.1:$flaky->{port} fail_timeout=1h; server $at[0] backup; health_check interval=50ms uri=/health?b$name match=ok; }"
    } '', 'zone u1 64k;', 'least_conn; keepalive 4;';
    my $locations = join '', map {"location /u$_ { proxy_pass http://u$_; } location /bu$_ { proxy_pass http://bu$_; }"} 0 .. 2;
    $b->say(1, $degraded);
    my $gateway = gateway(main => $log, http => "$match $groups server { listen 127.0.0.1:$at; $locations }");
    ok wait_until(5, sub { 6 == (() = $gateway->log =~ /is degraded/g) }), 'degraded in all groups';
    is_deeply answers($at, "/$_", 6), { 1 => 6 }, "/$_: the healthy server fails, the degraded one serves" for map { ("u$_", "bu$_") } 0 .. 2;
    $b->well_again(1);
    $_->quit for $gateway, $flaky;
}

ok $gateway->quit, 'quit';
unlike $gateway->log, qr/\[(?:emerg|alert|crit)\]/, 'nothing bad in the log';

# mandatory: no panic sends a request to a server that was never checked.
{
    my $mute    = IO::Socket::INET->new(LocalAddr => '127.0.0.1', Listen => 64) or die;
    my $at      = free_port();
    my $gateway = gateway(main => $log, http => "upstream u { panic_threshold 100%; server $at[0]; server $at[1]; health_check mandatory timeout=1m port=@{[ $mute->sockport ]}; }"
            . "server { listen 127.0.0.1:$at; location / { proxy_pass http://u; } }");
    is who($at, '/'), 502, 'mandatory: nobody before the first check';
    $gateway->quit;
}

# Mistakes: nginx -t names what is wrong, and where.
for my $row (
    [ 'panic_threshold;',                           'invalid number of arguments in "panic_threshold" directive' ],
    [ 'panic_threshold many;',                      'invalid value "many" of "panic_threshold", a percentage from 0% to 100% expected' ],
    [ 'panic_threshold 101%;',                      'invalid value "101%" of "panic_threshold"' ],
    [ 'panic_threshold -1;',                        'invalid value "-1" of "panic_threshold"' ],
    [ 'panic_threshold 50% mode=some;',             'invalid value "some" of "mode", "all" or "none" expected' ],
    [ 'panic_threshold 50% mode;',                  'invalid value "" of "mode"' ],
    [ 'panic_threshold 50% x=1;',                   'unknown parameter "x=1"' ],
    [ 'panic_threshold 50% mode=all mode=all;',     'duplicate parameter "mode"' ],
    [ 'panic_threshold 50%; panic_threshold 60%;',  '"panic_threshold" directive is duplicate' ],
) {
    my ($text, $message) = @$row;
    my ($status, $said) = nginx_t(http => "\nupstream u { server 127.0.0.1:1;\n\n$text\n}");
    ok $status != 0 && $said =~ /\[emerg\].*\Q$message\E.* in \S+nginx\.conf:12$/m, $text or diag "$status: $said";
}

# A mandatory check that has never passed keeps its server out in panic, too.
{
    my $port = free_port();
    $b->sick($_) for 1 .. 3;
    my $own = gateway(main => $log, workers => 2, http => "$match upstream u { zone u 64k; panic_threshold 50%; @{[ map {\"server $_;\"} @three ]} health_check interval=50ms uri=/health?unproven match=ok mandatory; } "
            . "upstream zero { panic_threshold 0%; @{[ map {\"server $_;\"} @three ]} health_check interval=50ms uri=/health?zero match=ok; } server { listen 127.0.0.1:$port; location / { proxy_pass http://u; } location /zero { proxy_pass http://zero; } }");
    ok wait_until(5, sub { 6 == (() = $own->log =~ /is unhealthy/g) }), 'three servers are sick from the start, in two groups' or diag $own->log;
    becomes $port, '/', 502, 'nobody has ever passed: none gets any';
    becomes $port, '/zero', 502, '0% alone: as without it';
    $b->well_again($_) for 1 .. 3;
    becomes $port, '/', 123, 'all have passed';
    $b->sick($_) for 1 .. 3;
    ok wait_until(5, sub { 12 == (() = $own->log =~ /is unhealthy/g) }), 'all are sick again' or diag $own->log;
    becomes $port, '/', 123, 'now that is panic';
    ok $own->reload, 'reload';
    becomes $port, '/', 502, 'after which they have to pass again';
    $own->quit;
    $b->well_again($_) for 1 .. 3;
}

done_testing;
