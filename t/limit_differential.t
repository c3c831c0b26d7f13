# gcra and the core's limit_req on the same random arrivals: verdict by verdict the same, and the same delays. On this host both
# judge the very same request in the same turn of the event loop; with Redis each has a request of its own, at moments that
# leave the verdict no doubt.
use strict;
use warnings;
use lib 't/lib';
use Sluice::Load;
use Sluice::Oracle;
use Sluice::Run;
use Test::More;

my $seed = $ENV{TEST_SLUICE_SEED} || time;
srand $seed;
note "TEST_SLUICE_SEED=$seed";

# A doubt of so many milliseconds about when a request was decided changes no verdict. Redis's clock and nginx's differ by
# what the kernel's coarse one lags, up to 10 ms.
my $margin = 20;
my $redis  = redis();
my ($port, $pairs) = (free_port(), free_port());

# [ R per second, burst, delay (undef: nodelay) ]
my @same = ([ 1, 0, undef ], [ 7, 3, 0 ], [ 20, 0, undef ], [ 20, 5, 0 ], [ 50, 10, 4 ], [ 200, 7, 2 ], [ 333, 5, undef ], [ 1000, 3, 1 ]);
my @pair = ([ 2, 3, 1 ], [ 5, 0, undef ], [ 5, 2, 0 ], [ 8, 4, undef ], [ 10, 5, 2 ], [ 10, 1, 0 ]);

sub how {
    my ($rate, $burst, $delay) = @_;
    return join ' ', $burst ? "burst=$burst" : (), defined $delay ? ($delay ? "delay=$delay" : ()) : 'nodelay';
}

my ($zones, $same, $pair) = ('', '', '');
for my $n (0 .. $#same) {
    my ($rate, $how) = ($same[$n][0], how(@{ $same[$n] }));
    $zones .= "limit_req_zone \$arg_k zone=sc$n:1m rate=${rate}r/s;\nrate_limit_zone \$arg_k zone=so$n:1m rate=${rate}r/s;\n";
    $same .= "location = /s$n { limit_req zone=sc$n $how; limit_req_dry_run on; rate_limit zone=so$n $how dry_run; empty_gif; }\n";
}
for my $n (0 .. $#pair) {
    my ($rate, $how) = ($pair[$n][0], how(@{ $pair[$n] }));
    $zones .= "limit_req_zone \$arg_k zone=pc$n:1m rate=${rate}r/s;\nrate_limit_zone \$arg_k zone=po$n:1m rate=${rate}r/s redis=main;\n";
    $pair .= "location = /core$n { limit_req zone=pc$n $how; empty_gif; }\nlocation = /ours$n { rate_limit zone=po$n $how; empty_gif; }\n";
}
my $gateway = gateway(main => 'error_log logs/error.log info;', http => <<"CONF");
redis main { server 127.0.0.1:$redis->{port}; timeout 2s; breaker failures=1000; }
keepalive_requests 100000;
limit_req_status 429;
limit_req_log_level warn;
rate_limit_log_level warn;
$zones
server { listen 127.0.0.1:$port;  add_header S \$limit_req_status:\$rate_limit_status always; $same }
server { listen 127.0.0.1:$pairs; add_header S \$rate_limit_status:\$rate_limit_source always; $pair }
CONF
ok wait_until(10, sub { header_of(get($pairs, '/ours0?k=' . rand), 'S') eq 'PASSED:redis' }), 'Redis is reached';

# The same request before both: phases of overload, of about the rate, and of rest; now and then many in one moment.
sub unrest {
    my ($span, $rate) = @_;
    my ($at, @at) = (0.01);
    $rate = 250 if $rate > 250;
    while ($at < $span) {
        my $pace = (0.3, 1, 3)[ rand 3 ] * $rate;
        my $n = 3 + int rand 12;
        push @at, ($at) x 3 if rand() < 0.3;
        push @at, map { $at + $_ } poisson($n / $pace, $pace);
        $at = $at[-1] + rand(2) / $rate if @at;
    }
    return grep { $_ < $span } @at;
}
my @answers = arrivals([ sort { $a->[0] <=> $b->[0] } map { my $n = $_; map { [ $_, $port, "/s$n?k=a" ] } unrest(4, $same[$n][0]) } 0 .. $#same ]);
is count_of(200, @answers), scalar @answers, 'all answered, ' . @answers;
for my $n (0 .. $#same) {
    my (%said, @differ);
    for (grep { index($_->{path}, "/s$n?") == 0 } @answers) {
        my ($core, $ours) = $_->{head} =~ /^S: (\w+):(\w+)/m or next;
        $said{$core}++;
        push @differ, "$core, not $ours" if $core ne $ours;
    }
    is "@differ", '', "same request, $same[$n][0]r/s " . how(@{ $same[$n] }) . ': ' . join ', ', map {"$said{$_} $_"} sort keys %said;
}

# A sequence of arrivals, and what the model says of each: [ millisecond, delay or undef ].
sub sequence {
    my ($rate, @limit) = @_;
    my ($model, $now, @sequence) = (gcra($rate, 1000, @limit), 0);
    while ($now < 4000) {
        my $next = $now + (rand() < 0.4 ? int rand 30 : int rand 2500 / $rate);
        next if @sequence && $model->margin($next) < $margin;
        push @sequence, [ $now = $next, $model->admit($next) ];
    }
    return @sequence;
}

# on_time(\@sequence, \@answers): how many of the first came so much on time that the model speaks of them too.
sub on_time {
    my ($expected, $answers) = @_;
    my $most = 500 * ($margin - 10);
    my %late = map { $_->{number} => $_->{sent} - 1000 * $expected->[ $_->{number} ][0] } @$answers;
    my ($least) = sort { $a <=> $b } values %late;
    my @off = grep { $late{ $_->{number} } - $least > $most || $_->{got} - $_->{sent} - 1000 * $_->{wait} > $most } @$answers;
    my ($first) = sort { $a <=> $b } map { $_->{number} } @off;
    return $first // scalar @$answers;
}

sub same {
    my ($expected, $answer) = @_;
    return $answer->{status} == 429 if !defined $expected;
    return $answer->{status} == 200 && abs($answer->{wait} - $expected) <= $margin;
}

# The delay that each of them took for this request, in milliseconds, from the log.
sub waits {
    my $n = shift;
    my ($rate, undef, $delay) = @{ $pair[$n] };
    my %waits;
    for (split /\n/, $gateway->log) {
        my ($name) = m{request: "GET (/(?:core|ours)$n\?\S+)} or next;
        $waits{$name} = $1 if /delaying request, (\d+) ms/;
        $waits{$name} = 1000 * ($1 - $delay) / $rate if /delaying request, excess: ([\d.]+)/;
    }
    return \%waits;
}

# by_number(\@answers, $who, $n): the answers of one location, each with its number and its delay.
sub by_number {
    my ($answers, $who, $n) = @_;
    my $waits = waits($n);
    my @mine  = grep { $_->{path} =~ m{^/$who$n\?} } @$answers;
    for (@mine) { ($_->{number}, $_->{wait}) = ($_->{path} =~ /i=(\d+)$/, $waits->{ $_->{path} } || 0) }
    return [ sort { $a->{number} <=> $b->{number} } @mine ];
}

# compare($n, \@sequence, \@answers): false if this machine was too slow to say.
sub compare {
    my ($n, $expected, $answers) = @_;
    my %of = map { $_ => by_number($answers, $_, $n) } qw(core ours);
    my ($number) = sort { $a <=> $b } map { on_time($expected, $_) } values %of;
    return 0 if $number < 5;
    $#{$_} = $number - 1 for values %of;
    my $name = "Redis, $pair[$n][0]r/s " . how(@{ $pair[$n] }) . ", $number requests of " . @$expected;
    for my $who (qw(core ours)) {
        my @differ = grep { !same($expected->[ $_->{number} ][1], $_) } @{ $of{$who} };
        is scalar @differ, 0, "$name: $who decides as the model" or diag map {"$_->{path} $_->{status} wait $_->{wait}\n"} @differ;
    }
    my ($core, $ours) = map { join ' ', map { $_->{status} } @{ $of{$_} } } qw(core ours);
    is $ours, $core, "$name: verdict by verdict the same";
    my ($worst) = sort { $b <=> $a } map { abs $of{core}[$_]{wait} - $of{ours}[$_]{wait} } 0 .. $number - 1;
    cmp_ok $worst, '<=', $margin, "$name: delayed as long, within $worst ms";
    return 1;
}

# Whoever's sequence this machine was too slow for runs again, with another key.
my %left = map { $_ => 1 } 0 .. $#pair;
for my $round (1 .. 3) {
    last if !%left;
    my (@plan, %expected);
    for my $n (sort keys %left) {
        my @sequence = sequence(@{ $pair[$n] });
        $expected{$n} = \@sequence;
        for my $i (0 .. $#sequence) {
            push @plan, map { [ $sequence[$i][0] / 1000, $pairs, "/$_$n?k=$round&i=$i" ] } qw(core ours);
        }
    }
    @answers = arrivals([ sort { $a->[0] <=> $b->[0] } @plan ]);
    for my $n (sort keys %left) { delete $left{$n} if compare($n, $expected{$n}, \@answers) }
}
SKIP: {
    skip 'this machine was too slow for Redis, ' . join(', ', map {"$pair[$_][0]r/s " . how(@{ $pair[$_] })} sort keys %left), 4 * keys %left if %left;
}

ok $gateway->quit, 'QUIT ends it';
unlike $gateway->log, qr/\[(?:emerg|alert|crit)\]|panic|exited on signal/, 'nothing bad in its log';
diag "run it again with TEST_SLUICE_SEED=$seed" if !Test::More->builder->is_passing;
done_testing;
