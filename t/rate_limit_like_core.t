# gcra and the core's limit_req, in one nginx, on the same arrivals: the same decisions, the same delays.
use strict;
use warnings;
use lib 't/lib';
use Sluice::Load;
use Sluice::Run;
use Test::More;
use Time::HiRes ();

my @cases = (
    # rate, burst, how, requests, milliseconds between them, at once
    [ '20r/s', 5, 'nodelay', 20, 0 ],
    [ '20r/s', 5, '',        7,  0 ],
    [ '20r/s', 6, 'delay=3', 9,  0 ],
    [ '50r/s', 0, '',        20, 30 ],
    [ '50r/s', 3, 'nodelay', 30, 9 ],
);
my $port = free_port();
my ($zones, $locations) = ('', '');
for my $n (0 .. $#cases) {
    my ($rate, $burst, $how) = @{ $cases[$n] };
    $how = $burst ? "burst=$burst $how" : $how;
    $zones .= "rate_limit_zone one zone=o$n:1m rate=$rate;\nlimit_req_zone one zone=c$n:1m rate=$rate;\n";
    $locations .= "location /o$n { rate_limit zone=o$n $how; empty_gif; }\nlocation /c$n { limit_req zone=c$n $how; limit_req_status 429; empty_gif; }\n";
}
# The address that realip finds for a location is the one that counts.
my $ip = 'set_real_ip_from 127.0.0.1; real_ip_header X-From;';
$zones .= "rate_limit_zone \$remote_addr zone=oip:1m rate=1r/m;\nlimit_req_zone \$remote_addr zone=cip:1m rate=1r/m;\n";
$locations .= "location /oip { $ip rate_limit zone=oip; empty_gif; }\nlocation /cip { $ip limit_req zone=cip; limit_req_status 429; empty_gif; }\n";
# The clock must move during a burst for neither; 21 at once are told apart by the core in milliseconds.
my $gateway = gateway(http => "$zones server { listen 127.0.0.1:$port; $locations }", workers => 1);

sub run {
    my ($path, $n, $pause) = @_;
    return burst($n, [$port], $path, at_once => $n) if !$pause;
    return map { Time::HiRes::usleep(1000 * $pause); burst(1, [$port], $path) } 1 .. $n;
}

for my $n (0 .. $#cases) {
    my ($rate, $burst, $how, $requests, $pause) = @{ $cases[$n] };
    my $name = "$rate burst=$burst $how, $requests requests $pause ms apart";
    my @ours = run("/o$n", $requests, $pause);
    my @core = run("/c$n", $requests, $pause);
    my ($admitted, $expected) = map { count_of(200, @$_) } \@ours, \@core;
    cmp_ok abs($admitted - $expected), '<=', $pause ? 2 : 0, "$name: as many admitted ($admitted, core $expected)";
    my @waits = map { [ sort { $a <=> $b } map { $_->{seconds} } grep { $_->{status} == 200 } @$_ ] } \@ours, \@core;
    my ($worst) = sort { $b <=> $a } map { abs(($waits[0][$_] // 0) - ($waits[1][$_] // 0)) } 0 .. ($admitted < $expected ? $admitted : $expected) - 1;
    cmp_ok $worst, '<', 0.045, "$name: as long delayed";
}
is count_of(429, run('/o0', 1, 0)), 0, 'the bucket drains';
for my $path ('/oip', '/cip') {
    my @codes = map { status_of(get($port, $path, 'X-From' => "192.0.2.$_")) } 1, 2, 1;
    is_deeply \@codes, [ 200, 200, 429 ], "$path: by the address that realip found";
}
ok $gateway->quit, 'QUIT ends it';
done_testing;
