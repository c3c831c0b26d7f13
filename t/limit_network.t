# A bad network between the gateways and a Redis that is well: late, byte by byte, garbled, cut, and a hole. The same verdicts as in
# limit_faults.t.
use strict;
use warnings;
use lib 't/lib';
use IO::Socket::INET;
use Sluice::Oracle;
use Sluice::Run;
use Test::More;

require './t/lib/Sluice/faults.pl';

my $redis = redis();
my ($port, $control) = (free_port(), free_port());
Sluice::Run::run($^X, 't/lib/Sluice/proxy.pl', $port, $control, $redis->{port});
my $proxy;
ok wait_until(5, sub { $proxy = IO::Socket::INET->new(PeerAddr => "127.0.0.1:$control") }), 'the proxy is there';

sub now {
    my $line = "@_\n";
    return sub { syswrite $proxy, $line; <$proxy> };
}

gateways($port);
# [ how bad, what is expected ]
for my $case ([ 'delay 20', strict => 1 ], ['delay 50'], ['delay 200'], ['hole'], ['reset'], ['garbage 1'], ['trickle 1']) {
    my ($mode, @expected) = @$case;
    my @answers = fault($mode, begin => now($mode), end => now('pass'), @expected);
    is scalar(said_by('fallback', @answers)), 0, "$mode: Redis decides" if "@expected" =~ /strict/;
    cmp_ok scalar(said_by('fallback', @answers)), '>', 20, "$mode: a fault it was" if "@expected" !~ /strict/;
}
all_quit();
done_testing;
