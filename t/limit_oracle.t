# Four gateways, one Redis, more requests than the limits allow: what all of them admit together stays within C + R*t in
# every span of time, windows hold at their edges, and no request is refused that had room.
use strict;
use warnings;
use lib 't/lib';
use List::Util qw(max);
use Sluice::Load;
use Sluice::Oracle;
use Sluice::Run;
use Test::More;
use Time::HiRes ();

my $seed = $ENV{TEST_SLUICE_SEED} || time;
srand $seed;
note "TEST_SLUICE_SEED=$seed";

my $redis = redis();
my @ports = map { free_port() } 1 .. 4;

sub conf_of {
    my ($port, %of) = (@_);
    $of{hot} ||= '50r/s burst=10';
    return (main => 'error_log logs/error.log warn;', workers => 1, http => <<"CONF");
redis main { server 127.0.0.1:$redis->{port}; timeout 2s; breaker failures=1000; }
rate_limit_zone \$arg_k zone=steady:1m rate=50r/s  burst=10 redis=main;
rate_limit_zone \$arg_k zone=tight:1m  rate=80r/s  redis=main;
rate_limit_zone \$arg_k zone=idle:1m   rate=10r/s  burst=4 redis=main;
rate_limit_zone \$arg_k zone=slow:1m   rate=60r/m  burst=3 redis=main;
rate_limit_zone \$arg_k zone=window:1m rate=20r/s  algorithm=sliding_window redis=main;
rate_limit_zone \$arg_k zone=both:1m   rate=20r/s  burst=5 algorithm=sliding_window redis=main;
rate_limit_zone \$arg_k zone=fixed:1m  rate=20r/s  algorithm=fixed_window redis=main;
rate_limit_zone \$arg_k zone=any:1m    rate=\$arg_r redis=main;
rate_limit_zone \$arg_k zone=hot:1m    rate=$of{hot} redis=main;
rate_limit_log_level info;
server {
    listen 127.0.0.1:$port;
    keepalive_requests 100000;
    add_header S \$rate_limit_status:\$rate_limit_source always;
    location /steady { rate_limit zone=steady nodelay; empty_gif; }
    location /tight  { rate_limit zone=tight nodelay; empty_gif; }
    location /idle   { rate_limit zone=idle nodelay; empty_gif; }
    location /slow   { rate_limit zone=slow nodelay; empty_gif; }
    location /window { rate_limit zone=window; empty_gif; }
    location /both   { rate_limit zone=both; empty_gif; }
    location /fixed  { rate_limit zone=fixed; empty_gif; }
    location /any    { rate_limit zone=any nodelay burst=0 cost=\$arg_c; empty_gif; }
    location /many   { rate_limit zone=any nodelay burst=49 cost=\$arg_c; empty_gif; }
    location /hot    { rate_limit zone=hot nodelay; empty_gif; }
}
CONF
}
my @gateways = map { gateway(conf_of($_)) } @ports;
ok wait_until(10, sub { 4 == grep { header_of(get($_, '/steady?k=' . rand), 'S') eq 'PASSED:redis' } @ports }), 'all reach Redis';

my $turn = 0;
sub at      { my ($path, @times) = @_; return map { [ $_, $ports[ $turn++ % 4 ], $path ] } @times }
sub bursts  { my ($path, $n, @times) = @_; return at($path, map { ($_) x $n } @times) }
sub run     { return arrivals([ sort { $a->[0] <=> $b->[0] } @_ ]) }
sub of_path { my ($path, @answers) = @_; return grep { index($_->{path}, "/$path?") == 0 } @answers }

# Edges of buckets and windows lie on Redis's clock, which is this one.
sub edges {
    my ($length, $span) = @_;
    my $now = Time::HiRes::time() + 0.05;
    my $first = (1 + int $now / $length) * $length - $now;
    return grep { $_ < $span } map { 0.03 + $first + $length * $_ } 0 .. $span / $length;
}

# A run costs three seconds, so all of these are in one.
my $span    = 3;
my @buckets = edges(0.063, $span);
my @seconds = edges(1, $span);
my @near    = map { ($_ - 0.004, $_ + 0.001) } @buckets[ grep { $_ % 4 == 0 } 0 .. $#buckets ];
# Just before what a burst of two poured in is gone (200 ms), just when, and just after; and over the fill (500 ms).
my @idle = (0, map { my $at = $_; map { $at += $_ } 0.197, 0.201, 0.205, 0.497, 0.501, 0.550 } 0);
my @answers = run(
    at('/steady?k=a', poisson($span, 200)), at('/tight?k=a', poisson($span, 160)),
    bursts('/idle?k=a', 7, @idle), bursts('/slow?k=a', 5, 0, 1.05, 2.1),
    bursts('/window?k=a', 6, grep { $_ > 0 } @near), bursts('/both?k=a', 2, grep { $_ > 0 } @near),
    bursts('/fixed?k=a', 13, map { ($_ - 0.006, $_ - 0.002, $_ + 0.001, $_ + 0.020) } @seconds),
);
is count_of(qr/0|5\d\d/, @answers), 0, 'every request is answered, ' . @answers;
is scalar(said_by('fallback', @answers)), 0, 'by Redis, or from what it said';

# [ path, C, R of, in ms ]
for ([ 'steady', 11, 50, 1000 ], [ 'tight', 1, 80, 1000 ], [ 'idle', 5, 10, 1000 ], [ 'slow', 4, 60, 60_000 ]) {
    my ($path, @limit) = @$_;
    my @mine = of_path($path, @answers);
    my @in   = admitted(@mine);
    my $time = $in[-1]{got} - $in[0]{sent};
    my $must = bound(@limit, $time);
    cmp_ok worst_excess(\@in, @limit), '<=', 0, "$path: " . @in . ' of ' . @mine . " admitted, never more than C + R*t ($must)";
    # The refusals of gateways from memory go by nginx's clock, which the kernel moves on every few milliseconds.
    my @hasty = hasty(\@mine, @limit, 15);
    is scalar @hasty, 0, "$path: no refusal where there was room";
}
my @window = of_path('window', @answers);
is worst_window([ admitted(@window) ], 1000), 20, 'sliding_window: 20 in the worst second of bursts at the edges of buckets, of ' . @window;
cmp_ok scalar(admitted(@window)), '>=', 20 * 2, 'sliding_window: and its rate is given out';
my @both = of_path('both', @answers);
cmp_ok worst_window([ admitted(@both) ], 1000), '<=', 20, 'with burst: 20 in the worst second';
cmp_ok worst_excess([ admitted(@both) ], 6, 20, 1000), '<=', 0, 'with burst: and 6 at once';
my @fixed = of_path('fixed', @answers);
my %asked = calendar(\@fixed, 1000);
my %given = calendar([ admitted(@fixed) ], 1000);
for (sort keys %asked) {
    my ($sure, $may) = @{ $given{$_} || [ 0, 0 ] };
    my $least = $asked{$_}[0] < 20 ? $asked{$_}[0] : 20;
    ok $sure <= 20 && $may >= $least, "fixed_window: second $_: $sure to $may of $asked{$_}[0] to $asked{$_}[1], at most 20";
}

# Rates from one a day to a million a second, burst 0, costs above the capacity.
sub say_of { my ($path) = @_; return get($ports[ $turn++ % 4 ], $path) }
for (
    # rate, requests, admitted by burst 0, by burst 49 (undef: not to be said), seconds to wait after a refusal
    [ '1r/d', 60, 1, 50, 86400 ], [ '1r/10000d', 60, 1, undef, 864_000_000 ], [ '1r/200d', 60, 1, 50, 17_280_000 ], [ '1r/h', 60, 1, 50, 3600 ], [ '1000000r/d', 60, undef, undef, 1 ],
    [ '1000000r/s', 60, undef, 60, 1 ], [ '4000000r/s', 60, undef, 60, 1 ],
) {
    my ($rate, $n, $single, $many, $wait) = @$_;
    my @single = map { say_of("/any?k=x$rate&r=$rate&c=1") } 1 .. $n;
    is scalar(grep { status_of($_) !~ /^(?:200|429)$/ } @single), 0, "$rate: answered";
    is scalar(grep { status_of($_) == 200 } @single), $single, "$rate: burst 0" if defined $single;
    my @many = map { say_of("/many?k=y$rate&r=$rate&c=1") } 1 .. $n;
    is scalar(grep { status_of($_) == 200 } @many), $many, "$rate: burst 49" if defined $many;
    my ($refused) = grep { status_of($_) == 429 } @single, @many;
    my $told = $refused ? header_of($refused, 'Retry-After') : $wait;
    ok $told <= $wait && $told >= $wait - 5 && $told > 0, "$rate: Retry-After $told";
}
my $cost = sub { status_of(say_of("/$_[0]?k=cost&r=1r/h&c=$_[1]")) };
is $cost->('many', $_), 429, "cost $_ of 50 is never admitted" for 51, 1000, 999_999_999, 9_999_999_999_999, '18446744073709551615';
is $cost->('many', 0),  200, 'and charged nothing: cost 0 looks';
is $cost->('many', 50), 200, 'cost 50 of 50';
is $cost->('many', 1),  429, 'then not one more';
is $cost->('any',  2),  429, 'burst 0: cost 2 is never admitted';
my @ttl = map { ask($redis->{port}, 'PTTL', $_) } @{ ask($redis->{port}, 'KEYS', 'sluice:*') };
is scalar(grep { $_ < 0 } @ttl), 0, 'all expire, the slowest in ' . int(max(@ttl) / 86_400_000) . ' days';

# The limit changed while requests keep it full: up, then down; all gateways within a moment of each other.
my ($first, @changes) = (Time::HiRes::time(), [ 0.7, '100r/s burst=20' ], [ 1.5, '20r/s burst=2' ]);
my @old = map { $_->workers } @gateways;
my @hot = arrivals([ at('/hot?k=a', poisson(2.6, 250)) ], meanwhile => sub {
    return if !@changes || Time::HiRes::time() - $first < $changes[0][0];
    my (undef, $hot) = @{ shift @changes };
    for (0 .. 3) { Sluice::Run::write_conf($gateways[$_]{dir}, conf_of($ports[$_], hot => $hot)); $gateways[$_]->signal('HUP') }
});
is count_of(qr/0|5\d\d/, @hot), 0, 'changed while hot: every request is answered, ' . @hot;
my @in = admitted(@hot);
cmp_ok worst_excess(\@in, 21, 100, 1000), '<=', 0, 'changed while hot: never above the largest';
# What the limit says is known from the answers: a gateway that has changed tells of it.
my ($up, $down) = map { my $limit = $_; (grep { $_->{head} =~ /^X-RateLimit-Limit: $limit\r?$/m } @hot)[0] } 100, 20;
my ($last) = grep { $_->{head} =~ /^X-RateLimit-Limit: 100\r?$/m } reverse @hot;
ok $up && $down && $last, 'changed while hot: up and down' or die "the reloads were not seen\n";
my @before = grep { $_->{got} < $up->{sent} } @in;
cmp_ok worst_excess(\@before, 11, 50, 1000), '<=', 0, 'changed while hot: before, the old one holds';
# Nothing is refilled by a change: up brings the larger burst once, down brings nothing. Two may be lost by rounding down three times.
my $held = $up->{sent} - $hot[0]{sent};
my $rose = $last->{got} - $up->{sent};
my $fell = $hot[-1]{got} - $last->{got};
cmp_ok scalar(@in), '<=', bound(21 + 2, 50, 1000, $held) + bound(0, 100, 1000, $rose) + bound(0, 20, 1000, $fell), 'changed while hot: ' . @in . ' admitted, no refill';
my @after = grep { $_->{sent} > $last->{got} } @in;
cmp_ok worst_excess(\@after, 3, 20, 1000) // 0, '<=', 0, 'changed while hot: after, the new one holds';
ok wait_until(10, sub { my %now = map { $_ => 1 } map { $_->workers } @gateways; 4 == keys %now && !grep { $now{$_} } @old }), 'only new workers are left';

for (@gateways) {
    ok $_->quit, 'QUIT ends it';
    unlike $_->log, qr/\[(?:emerg|alert|crit)\]|panic|exited on signal/, 'nothing bad in its log';
}
diag "run it again with TEST_SLUICE_SEED=$seed" if !Test::More->builder->is_passing;
done_testing;
